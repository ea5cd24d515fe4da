"""Gradient-boosted trees as the baseline beside a model."""

import json
from pathlib import Path

import numpy as np
import pytest

from genrank.cli import main
from genrank.data.prepared import PreparedData
from genrank.data.sequence import SequenceConfig
from genrank.evaluation.metrics import auc
from genrank.evaluation.trees import categorical_columns, exposure_features, tree_baseline

pytest.importorskip("lightgbm")


@pytest.fixture(scope="module")
def counted(feed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trees") / "data"
    log, schema = str(feed / "exposures"), str(feed / "schema.toml")
    statistics = ["--set", "statistics.enabled=true", "--set", "statistics.windows=['all']"]
    assert main(["prepare", log, "--schema", schema, "--out", str(out), *statistics]) == 0
    return out


def test_trees_learn_from_the_statistics_and_score_every_row(counted: Path) -> None:
    data = PreparedData.load(counted)
    builder = data.builder(SequenceConfig())
    rows = np.flatnonzero(builder.request_time >= data.manifest.split.test_start)
    found = tree_baseline(data, builder, data.manifest.spec.tasks[0], rows=rows)
    assert found is not None
    assert found.scores.shape == rows.shape
    assert found.num_trees > 0
    assert auc(found.scores, data.timelines.tasks["click"][rows]) > 0.53
    again = tree_baseline(data, builder, data.manifest.spec.tasks[0], rows=rows)
    assert (again.scores == found.scores).all()


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
