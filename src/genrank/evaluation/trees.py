"""Gradient-boosted trees (LightGBM) on features that are known before the request: the classical baseline.

Features: the window statistics where the data has them; category and bucket indices of item, user and exposure
(without ids, multi-valued features and frozen embeddings); length of the history, time since the previous request,
age of the item. Trained on the training part; the numbers of trees and leaves are chosen on the validation part.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrank.data.prepared import PreparedData
from genrank.data.sequence import SequenceBuilder
from genrank.data.weights import metric_weights
from genrank.errors import MissingExtraError
from genrank.evaluation.metrics import Floats
from genrank.schema import TaskSpec

LEAVES = (15, 31, 63)  # the grid; all else is fixed
MAX_TRAINING_ROWS = 2_000_000  # a larger training part is sampled uniformly, so that memory stays bounded
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
class TreeScores:
    """Predicted probabilities of one task, and the chosen numbers of leaves and trees."""

    scores: Floats
    num_leaves: int
    num_trees: int


def tree_baseline(
    data: PreparedData, builder: SequenceBuilder, task: TaskSpec, *, rows: NDArray[np.int64], seed: int = 0
) -> TreeScores | None:
    """Trees for the binary `task`, scored for the timelines' `rows`; None where training has one class only.

    Raises MissingExtraError without LightGBM.
    """
    lightgbm = import_lightgbm()
    label, weight = data.timelines.tasks[task.name], metric_weights(data.timelines, task)
    known = (label >= 0) & data.timelines.target
    split = data.manifest.split
    training = np.flatnonzero(known & (builder.request_time < split.valid_start))
    validation = np.flatnonzero(
        known & (builder.request_time >= split.valid_start) & (builder.request_time < split.test_start)
    )
    if len(np.unique(label[training])) < 2 or len(np.unique(label[validation])) < 2:
        return None
    if len(training) > MAX_TRAINING_ROWS:
        training = np.random.default_rng(seed).choice(training, MAX_TRAINING_ROWS, replace=False)
    categorical = categorical_columns(data)
    sets = [
        lightgbm.Dataset(
            exposure_features(data, builder, part),
            label[part],
            weight=None if weight is None else weight[part],
            categorical_feature=categorical,
        )
        for part in (training, validation)
    ]
    best: Any = None
    for leaves in LEAVES:
        model = lightgbm.train(
            {**PARAMETERS, "num_leaves": leaves, "seed": seed},
            sets[0],
            num_boost_round=3000,
            valid_sets=[sets[1]],
            callbacks=[lightgbm.early_stopping(50, verbose=False)],
        )
        loss = model.best_score["valid_0"]["binary_logloss"]
        if best is None or loss < best[0]:
            best = (loss, leaves, model)
    _, leaves, model = best
    scores: Floats = model.predict(exposure_features(data, builder, rows), num_iteration=model.best_iteration)
    return TreeScores(scores=scores, num_leaves=leaves, num_trees=model.best_iteration)


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
    kinds = [f.kind for f in data.manifest.spec.features if f.name not in ("item_id", "user_id")]
    return list(range(kinds.count("categorical")))


def import_lightgbm() -> ModuleType:
    """The lightgbm module. Raises MissingExtraError if it is not installed."""
    try:
        import lightgbm
    except (ImportError, OSError) as problem:  # OSError: its OpenMP runtime is missing
        raise MissingExtraError(f"the trees need LightGBM ({problem}); pip install 'genrank[trees]'") from None
    module: ModuleType = lightgbm
    return module
