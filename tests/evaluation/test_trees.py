"""Gradient-boosted trees as the baseline beside a model."""

import json
from pathlib import Path

import numpy as np
import pytest

from genrank.cli import main
from genrank.data.batch_plan import LoaderConfig
from genrank.data.pools import StoredData, StoredPart
from genrank.data.prepared import PreparedData
from genrank.data.sequence import SequenceConfig
from genrank.evaluation import trees as module
from genrank.evaluation.metrics import auc
from genrank.evaluation.trees import TreeBaselines, categorical_columns, exposure_features
from genrank.runs.evaluate_ranking import add_trees, predicted_with_baselines

pytest.importorskip("lightgbm")


@pytest.fixture(scope="module")
def counted(feed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trees") / "data"
    log, schema = str(feed / "exposures"), str(feed / "schema.toml")
    statistics = ["--set", "statistics.enabled=true", "--set", "statistics.windows=['all']"]
    assert main(["prepare", log, "--schema", schema, "--out", str(out), *statistics]) == 0
    return out


def judged(folder: Path, *, max_exposures: int = 10**9) -> tuple[TreeBaselines, np.ndarray, np.ndarray]:
    """The trees, and the scores and labels of the test part's clicks."""
    part = StoredPart(
        data=StoredData.open(folder),
        part="test",
        sequence=SequenceConfig(),
        loading=LoaderConfig(max_exposures=max_exposures),
    )
    predictions, baselines = predicted_with_baselines(None, part)
    trees = add_trees(baselines, part, 0)
    return trees, baselines["click"]["trees"], predictions.labels["click"]


def test_trees_learn_from_the_statistics_and_score_every_row(counted: Path) -> None:
    trees, scores, labels = judged(counted)
    assert scores.shape == labels.shape
    assert trees.models["click"].best_iteration > 0
    assert trees.sampled == ""
    assert auc(scores, labels) > 0.53
    assert (judged(counted)[1] == scores).all()


@pytest.mark.parametrize("most", [10**6, 1000])
def test_trees_of_a_log_in_pools_are_those_of_the_same_log_in_memory(
    counted: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(module, "MAX_ROWS", most)
    trees, scores, _ = judged(counted)
    pooled, pooled_scores, _ = judged(counted, max_exposures=1)  # each bucket is a pool
    assert len(pooled.rows["train"]) > len(trees.rows["train"]) == 1
    assert (pooled_scores == scores).all()
    assert pooled.sampled == trees.sampled
    counts = StoredData.open(counted).manifest.counts
    learned = len(trees.rows["train"][0].features)
    if most < counts.train.exposures:
        assert 0.8 * most < learned < 1.2 * most
        assert (
            trees.sampled == f"trees learn from a sample: {learned:,} of {counts.train.exposures:,} training exposures"
        )
    else:
        assert (learned, trees.sampled) == (counts.train.exposures, "")


def test_the_trees_features_are_the_exposures_own_and_its_statistics(counted: Path) -> None:
    data = PreparedData.load(counted)
    builder = data.builder(SequenceConfig())
    rows = np.array([5, 2])
    features = exposure_features(data, builder, rows)
    width = data.timelines.statistics.shape[1]
    assert (features[:, -width:] == data.timelines.statistics[rows].astype(np.float32)).all()
    assert categorical_columns(data) == list(range(len(categorical_columns(data))))
    assert np.isfinite(features).all()


def test_evaluate_prints_trees_beside_the_model_when_asked(run: Path, capsys) -> None:
    capsys.readouterr()
    assert main(["evaluate", str(run), "--json", "--trees"]) == 0
    judged = json.loads(capsys.readouterr().out)
    assert 0 < judged["baselines"]["click"]["trees"]["auc"] < 1


def test_without_lightgbm_the_extra_is_named(run: Path, capsys, monkeypatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "lightgbm", None)
    capsys.readouterr()
    assert main(["evaluate", str(run), "--trees"]) == 2
    assert "pip install 'genrank[trees]'" in capsys.readouterr().err
