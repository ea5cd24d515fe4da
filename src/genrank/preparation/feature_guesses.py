"""Guesses which columns are features, their owner and kind; doubtful ones are commented out, with the reason."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from genrank.preparation import column_names as hints
from genrank.preparation.column_facts import ColumnFacts
from genrank.preparation.task_guesses import TaskGuesses
from genrank.preparation.toml_lines import block, comment, setting

MAX_FEATURES = 64  # more are rarely intended; the rest is commented out
FEW = 64  # whole numbers with at most so many values are categories
SEPARATORS = ("|", ";", ",", " ")
TELLING = 0.98  # AUC above which a column gives the label away; `prepare` warns above it too


def feature_blocks(
    columns: list[ColumnFacts], tasks: TaskGuesses, *, user: ColumnFacts | None, item: ColumnFacts | None
) -> Iterator[str]:
    """TOML of all columns that have no role and are no task."""
    active = 0
    for column in columns:
        doubt = _doubt(column, tasks)
        if doubt and column.kind in ("empty", "other", "moment"):
            yield from comment(f"{column.name!r} is left out: {doubt}")
            yield ""
            continue
        owner, why = _owner(column, user, item)
        kind, settings, shape = _kind(column)
        if kind == "embedding" and owner == "exposure":
            doubt = doubt or "embeddings belong to items or users, and it differs within one of them"
        if not doubt and active == MAX_FEATURES:
            doubt = f"beyond the first {MAX_FEATURES} features"
        name = hints.identifier(column.name, tasks.taken)
        lines = [setting("name", name), setting("owner", owner), setting("kind", kind), setting("column", column.name)]
        reason = f"left out ({shape}): {doubt}" if doubt else f"{shape}; {why}"
        yield from block("[[features]]", [*lines, *settings], why=reason, active=not doubt)
        active += not doubt


def _doubt(column: ColumnFacts, tasks: TaskGuesses) -> str:
    """Why a column is no feature; empty where it may be one."""
    if column.kind == "empty":
        return "it has no value in the sample"
    if column.kind == "other":
        return f"its type can't be read as a feature ({column.example})"
    if column.kind == "moment" or column.unit or column.format:
        return "another time; if it is when an action happened, name it in that task as time, else leave it out"
    if column.num_distinct < 2:
        return f"it is {column.example!r} in every row of the sample"
    return _doubt_by_name(column, tasks) or _doubt_by_values(column, tasks)


def _doubt_by_name(column: ColumnFacts, tasks: TaskGuesses) -> str:
    named = set(hints.words(column.name))
    if column.kind == "number" and named & hints.SCORED and _is_share(column):
        return "a probability or a model's score, by its name and values: made of what is to be predicted?"
    if "_".join(hints.words(column.name)) in hints.WEIGHT and column.numbers is not None:
        return "a weight, by its name: if it says how many exposures a row counts for, set columns.weight"
    if named & hints.ACTIONS:
        return "named like an action: what the user did (then a task or feedback), or known before the item was shown?"
    if column.kind == "truth" and not tasks.found:
        return "0/1 or true/false: what the user did (then a task), or known before the item was shown?"
    return ""


def _doubt_by_values(column: ColumnFacts, tasks: TaskGuesses) -> str:
    if column.kind in ("text", "integer") and column.num_distinct > 0.9 * column.num_known > 100:
        return "it differs in almost every row, as ids of rows and free text do"
    if column.kind == "text" and np.mean([len(text) for text in column.texts[:1000]]) > 60:
        return "free text; make an embedding of it in a side table"
    if any(_tells(column, label) for label in tasks.labels):
        return (
            "it predicts the label of a task almost perfectly (AUC above 0.98): was it known before the item was shown?"
        )
    return ""


def _is_share(column: ColumnFacts) -> bool:
    assert column.numbers is not None
    return bool(np.nanmin(column.numbers) >= 0 and np.nanmax(column.numbers) <= 1)


def _owner(column: ColumnFacts, user: ColumnFacts | None, item: ColumnFacts | None) -> tuple[str, str]:
    for owner, ids in (("item", item), ("user", user)):
        if ids is not None and ids.kind != "list" and column.belongs_to(ids):
            return owner, f"the {owner}'s, since no {owner} has two values in the sample"
    return "exposure", "of the exposure: is it known before the item is shown?"


def _kind(column: ColumnFacts) -> tuple[str, list[str], str]:
    """The feature's kind, further settings, and the reason."""
    many = f"{column.num_distinct:,} different values, as {column.example!r}"
    if column.kind == "vector":
        return "embedding", [], f"lists of {column.width} numbers"
    if column.kind == "list":
        return "multi", [], f"lists of up to {column.width} values"
    if column.kind == "number":
        return "numeric", [], f"numbers, {many}"
    if column.kind == "integer":
        is_id = bool({"id", "ids", "code", "type", "category", "cat"} & set(hints.words(column.name)))
        if column.num_distinct > FEW and not is_id:
            return "numeric", [], f"whole numbers, {many}"
        return "categorical", [], f"whole numbers with {many}: categories, or numeric if their size means something"
    separator = _separator(column) if column.kind == "text" else ""
    if separator:
        return "multi", [setting("separator", separator)], f"values separated by {separator!r}, as {column.example!r}"
    return "categorical", [], many


def _separator(column: ColumnFacts) -> str:
    """The separator of a multi-valued text; empty if there is none."""
    texts = column.texts[:2000]
    for separator in SEPARATORS:
        split = [text.split(separator) for text in texts]
        share = np.mean([len(parts) > 1 for parts in split])
        parts = [part.strip() for row in split for part in row]
        short = bool(parts) and np.mean([len(part) for part in parts]) <= 24
        ids = separator not in (" ", ",") or all(" " not in part and part[-1:].isalnum() for part in parts if part)
        repeats = len(set(parts)) < 0.7 * len(parts)
        plain = separator != " " or all(any(letter.isdigit() for letter in part) for part in parts if part)
        if share > 0.2 and short and ids and repeats and plain:
            return separator
    return ""


def _tells(column: ColumnFacts, label: NDArray[np.float64]) -> bool:
    """Whether a column's values predict the label: by the rate of every value, or of many numbers by their size."""
    if column.kind in ("list", "vector", "other"):
        return False
    known = np.isfinite(label)
    values = column.codes[known] + 1
    labels = label[known]
    if column.num_distinct > 0.05 * len(labels):
        if column.numbers is None:
            return False
        score = np.nan_to_num(column.numbers[known], nan=-np.inf)
        auc = _auc(score, labels)
        return max(auc, 1 - auc) > TELLING
    rates = np.bincount(values, labels, column.num_distinct + 1) / np.maximum(
        np.bincount(values, minlength=column.num_distinct + 1), 1
    )
    return _auc(rates[values], labels) > TELLING


def _auc(score: NDArray[np.float64], label: NDArray[np.float64]) -> float:
    """Of two classes; ties count half."""
    _, place, count = np.unique(score, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2)[place]
    positives = label.sum()
    negatives = len(label) - positives
    if not positives or not negatives:
        return 0.5
    return float((rank[label > 0].sum() - positives * (positives + 1) / 2) / (positives * negatives))
