"""Gradient-boosted trees (LightGBM) on features that are known before the request: the classical baseline.

Features: the window statistics where the data has them; category and bucket indices of item, user and exposure
(without ids, multi-valued features and frozen embeddings); length of the history, time since the previous request,
age of the item. Trained on the training part; the numbers of trees and leaves are chosen on the validation part.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrank.data.hashing import hashed
from genrank.data.manifest import Manifest
from genrank.data.prepared import PreparedData
from genrank.data.sequence import SequenceBuilder
from genrank.data.timelines import Timelines
from genrank.data.weights import metric_weights
from genrank.errors import MissingExtraError
from genrank.evaluation.metrics import Floats
from genrank.schema import DataSpec

LEAVES = (15, 31, 63)  # the grid; all else is fixed
MAX_ROWS = 2_000_000  # of a part; a larger one is sampled uniformly, so that memory stays bounded
PARAMETERS: Mapping[str, Any] = {
    "objective": "binary",
    "learning_rate": 0.05,
    "min_data_in_leaf": 50,
    "feature_fraction": 0.7,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "lambda_l2": 1.0,
    "verbosity": -1,
    "deterministic": True,
    "force_row_wise": True,
}


@dataclass(frozen=True, kw_only=True)
class TreeRows:
    """Sampled exposures of the training or validation part: features (N, F), labels and weights (N) per task."""

    features: NDArray[np.float32]
    labels: Mapping[str, NDArray[np.int8]]
    weights: Mapping[str, Floats | None]


class TreeBaselines:
    """Trees for every binary task, of timelines that come a pool after another. MissingExtraError without LightGBM.

    A part above `MAX_ROWS` exposures is sampled: by a hash of user and row, so that pools don't matter.
    """

    def __init__(self, manifest: Manifest, *, seed: int = 0):
        self.lightgbm = import_lightgbm()
        self.split, self.spec, self.seed = manifest.split, manifest.spec, seed
        self.tasks = [task for task in self.spec.tasks if task.kind == "binary"]
        counts = manifest.counts
        self.sizes = {"train": counts.train.exposures, "valid": counts.valid.exposures}
        self.rows: dict[str, list[TreeRows]] = {"train": [], "valid": []}
        self.models: dict[str, Any] = {}

    def add(self, data: PreparedData, builder: SequenceBuilder) -> None:
        """A pool to learn from."""
        t = data.timelines
        for part, rows in self.rows.items():
            begin, end = self.split.times(part)
            assert end is not None  # only the test part may end with the log
            chosen = t.target & (builder.request_time < end)
            if begin is not None:
                chosen &= builder.request_time >= begin
            kept = self._sampled(t, builder, np.flatnonzero(chosen), MAX_ROWS / max(self.sizes[part], 1))
            rows.append(
                TreeRows(
                    features=exposure_features(data, builder, kept),
                    labels={task.name: t.tasks[task.name][kept] for task in self.tasks},
                    weights={task.name: metric_weights(t, task, kept) for task in self.tasks},
                )
            )

    def _sampled(
        self, t: Timelines, builder: SequenceBuilder, rows: NDArray[np.int64], rate: float
    ) -> NDArray[np.int64]:
        if rate >= 1:
            return rows
        user = builder.user_of_row[rows]
        seed = np.full(len(rows), self.seed)
        draw = hashed(seed, t.users[user].astype(np.int64), rows - t.offsets[user])
        return rows[draw < np.uint64(int(rate * 2**64))]

    @property
    def sampled(self) -> str:
        """What was left out, to be said beside the figures; empty: nothing."""
        size, learned = self.sizes["train"], sum(len(rows.features) for rows in self.rows["train"])
        if max(self.sizes.values()) <= MAX_ROWS:
            return ""
        return f"trees learn from a sample: {learned:,} of {size:,} training exposures"

    def fit(self) -> None:
        """Learn from what was added. A task that has one class only gets no trees."""
        categorical = list(range(_num_categorical(self.spec)))
        for task in self.tasks:
            parts = [_known(rows, task.name) for rows in self.rows.values()]
            if any(len(np.unique(label)) < 2 for _, label, _ in parts):
                continue
            sets = [
                self.lightgbm.Dataset(features, label, weight=weight, categorical_feature=categorical)
                for features, label, weight in parts
            ]
            self.models[task.name] = self._best(*sets)

    def _best(self, training: Any, validation: Any) -> Any:
        best: Any = None
        for leaves in LEAVES:
            model = self.lightgbm.train(
                {**PARAMETERS, "num_leaves": leaves, "seed": self.seed},
                training,
                num_boost_round=3000,
                valid_sets=[validation],
                callbacks=[self.lightgbm.early_stopping(50, verbose=False)],
            )
            loss = model.best_score["valid_0"]["binary_logloss"]
            if best is None or loss < best[0]:
                best = (loss, model)
        return best[1]

    def scores(self, data: PreparedData, builder: SequenceBuilder, rows: NDArray[np.int64]) -> dict[str, Floats]:
        """(rows) predicted probabilities of the rows of a pool, per task with trees."""
        features = exposure_features(data, builder, rows)
        if not len(rows):
            return {name: np.zeros(0) for name in self.models}
        return {
            name: model.predict(features, num_iteration=model.best_iteration) for name, model in self.models.items()
        }


def _known(pools: Sequence[TreeRows], task: str) -> tuple[NDArray[np.float32], NDArray[np.int8], Floats | None]:
    """Features, labels and weights of the exposures whose label is known."""
    label = np.concatenate([rows.labels[task] for rows in pools])
    weights = [weight for rows in pools if (weight := rows.weights[task]) is not None]
    known = label >= 0
    weight = np.concatenate(weights)[known] if weights else None
    return np.concatenate([rows.features for rows in pools])[known], label[known], weight


def exposure_features(data: PreparedData, builder: SequenceBuilder, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """(rows, features), the categorical features first: `categorical_columns` has their numbers."""
    t = data.timelines
    user, item = t.users[builder.user_of_row[rows]], t.item[rows]
    owners = {
        "item": (data.items.features, item),
        "user": (data.users.features, user),
        "exposure": (t.features, rows),
    }
    indices: dict[str, list[NDArray[Any]]] = {"categorical": [], "numeric": []}
    for feature in data.manifest.spec.features:
        if feature.kind in indices and feature.name not in ("item_id", "user_id"):
            columns, index = owners[feature.owner]
            indices[feature.kind].append(columns[feature.name][index])
    end = builder.visible_end[rows]
    start = t.offsets[builder.user_of_row[rows]]
    time = builder.request_time[rows]
    gap = builder.gap[rows]
    age = time - data.items.first_time[item]
    plain = [*indices["categorical"], *indices["numeric"], np.log1p(end - start), gap, age]
    dense = np.stack([column.astype(np.float32) for column in plain], axis=1)
    return np.concatenate([dense, t.statistics[rows].astype(np.float32)], axis=1)


def categorical_columns(data: PreparedData) -> list[int]:
    """Numbers of the categorical columns of `exposure_features`."""
    return list(range(_num_categorical(data.manifest.spec)))


def _num_categorical(spec: DataSpec) -> int:
    return sum(f.kind == "categorical" and f.name not in ("item_id", "user_id") for f in spec.features)


def import_lightgbm() -> ModuleType:
    """The lightgbm module. Raises MissingExtraError if it is not installed."""
    try:
        import lightgbm
    except (ImportError, OSError) as problem:  # OSError: its OpenMP runtime is missing
        raise MissingExtraError(f"the trees need LightGBM ({problem}); pip install 'genrank[trees]'") from None
    module: ModuleType = lightgbm
    return module
