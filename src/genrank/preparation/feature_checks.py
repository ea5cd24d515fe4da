"""Warnings of features that give the label away or have no information, by the training part.

N: target exposures of the training part, or a sample of them. A feature's values are codes; 0 is unknown.
"""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from genrank.data.arranging import array
from genrank.data.manifest import DataWarning, SplitTimes
from genrank.data.tables import FeatureTable
from genrank.preparation.buckets import Buckets
from genrank.preparation.vocabulary import encode
from genrank.preparation.writing import target_of
from genrank.schema import LogSchema

SAMPLE = 2**20  # exposures to examine, evenly spread over the users
SEPARATES = 0.98  # AUC of a single feature above which it is suspect
MIN_CLASS = 20  # exposures of either class, below which there is no warning
CHANCE = 1e-6  # of a feature being known for one class only, if it had nothing to do with the label
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


def feature_warnings(
    buckets: Buckets, schema: LogSchema, tables: Mapping[str, FeatureTable], split: SplitTimes
) -> list[DataWarning]:
    """Warns of features that alone separate a task's labels, that are known for one class only, and of those that
    are constant or never known. `tables`: of "item" and "user"."""
    sample = _Sample(buckets, schema, split)
    warnings = []
    for feature in schema.features:
        if feature.kind == "embedding":
            continue
        if feature.owner == "exposure":
            codes = sample.codes(f"feature_{feature.name}")
        else:
            codes = tables[feature.owner].categories(feature.name)[sample.rows[feature.owner]]
        role = f"feature {feature.name!r}"
        empty = _says_nothing(role, codes)
        warnings += empty
        if not empty:
            for task, label in sample.labels.items():
                warnings += _says_the_label(role, codes, task, label, sample.fold)
    for part in schema.feedback:
        warnings += _says_nothing(f"feedback {part.name!r}", sample.codes(f"feedback_{part.name}"))
    return warnings


class _Sample:
    """Rows of the training part. `labels`: task → (N) 1, 0, NaN for unknown; of durations 1 above the median."""

    def __init__(self, buckets: Buckets, schema: LogSchema, split: SplitTimes):
        step = -(-buckets.num_rows // SAMPLE)
        parts = []
        for bucket in buckets:
            training = np.flatnonzero((array(bucket, "time") < split.valid_start) & target_of(bucket))
            parts.append(bucket.take(pa.array(training[::step])))
        self._table = pa.concat_tables(parts, promote_options="permissive").combine_chunks()
        self.rows = {owner: self._numbers(owner).astype(np.int64) for owner in ("user", "item")}
        by_user = self.rows["user"] % 2 == 0
        self.fold: Mask = by_user if by_user.any() and not by_user.all() else np.arange(len(by_user)) % 2 == 0
        self.labels: dict[str, Floats] = {}
        for task in schema.tasks:
            value = self._numbers(f"task_{task.name}").astype(np.float64)
            if task.kind == "duration":
                known = np.isfinite(value)
                above = (value > np.median(value[known])).astype(np.float64) if known.any() else value
                self.labels[task.name] = np.where(known, above, np.nan)
            else:
                self.labels[task.name] = np.where(value < 0, np.nan, value)

    def codes(self, name: str) -> Ints:
        """A column's values as codes in their order; of several values the first."""
        column = self._table.column(name)
        if pa.types.is_list(column.type):
            lists = column.combine_chunks()
            filled = np.diff(lists.offsets.to_numpy()) > 0
            first = np.zeros(len(lists), np.int64)
            first[filled] = encode(lists.flatten())[1][lists.offsets.to_numpy()[:-1][filled] - lists.offsets[0].as_py()]
            return first
        values = self._numbers(name)
        if values.dtype.kind != "f":
            return values.astype(np.int64)
        known = np.isfinite(values)
        codes = np.zeros(len(values), np.int64)
        codes[known] = np.unique(values[known], return_inverse=True)[1] + 1
        return codes

    def _numbers(self, name: str) -> NDArray[np.generic]:
        return array(self._table, name)


def _says_nothing(role: str, codes: Ints) -> list[DataWarning]:
    if not len(codes) or codes.min() != codes.max():
        return []
    found = "has no value" if codes[0] == 0 else "has one value only"
    return [DataWarning(kind="values", message=f"{role} {found} in the training part, so it has no information")]


def _says_the_label(role: str, codes: Ints, task: str, label: Floats, fold: Mask) -> list[DataWarning]:
    there = ~np.isnan(label)
    codes, label, fold = codes[there], label[there], fold[there]
    positives = int(label.sum())
    if min(positives, len(label) - positives) < MIN_CLASS:
        return []
    remedy = "if it is known only after the exposure, leave it out or make it [[feedback]]"
    known = codes > 0
    share = positives / len(label)
    of_known = label[known]
    for word, among, usual in (("positive", of_known.sum(), share), ("negative", (1 - of_known).sum(), 1 - share)):
        others = len(of_known) - among
        if len(of_known) < len(label) and 1000 * others <= among and among * np.log(usual) < np.log(CHANCE):
            message = f"{role}: known only where task {task!r} is {word} ({int(among):,} exposures of training); "
            return [DataWarning(kind="leakage", message=message + remedy)]
    separation = max(_auc(codes.astype(np.float64), label), _auc(-codes.astype(np.float64), label))
    separation = max(separation, _auc(_rates_of_others(codes, label, fold), label))
    if separation > SEPARATES:
        message = f"{role}: alone it separates task {task!r} (AUC {separation:.3f} on the training part); "
        return [DataWarning(kind="leakage", message=message + remedy)]
    return []


def _rates_of_others(codes: Ints, label: Floats, fold: Mask) -> Floats:
    """(N) rate of the label at the row's value, counted on the other half of the users: a rare value tells little."""
    rates = np.empty(len(codes))
    size = int(codes.max()) + 1
    for half in (fold, ~fold):
        count = np.bincount(codes[~half], minlength=size)
        sums = np.bincount(codes[~half], weights=label[~half], minlength=size)
        rates[half] = ((sums + label.mean()) / (count + 1))[codes[half]]
    return rates


def _auc(score: Floats, label: Floats) -> float:
    """The share of pairs of a positive and a negative that the score puts in order, ties by half."""
    values, place, counts = np.unique(score, return_inverse=True, return_counts=True)
    del values
    rank = (np.cumsum(counts) - (counts - 1) / 2)[place]
    positives = label.sum()
    return float((rank[label == 1].sum() - positives * (positives + 1) / 2) / (positives * (len(label) - positives)))
