"""That a model learns what is there, and nothing where nothing is."""

import json
from pathlib import Path

import pytest

from genrank.cli import main
from genrank.simulation import WorldConfig, simulate

SETTINGS = ["--recipe", "genrank-demo", "--set", "threads=1", "--set", "model.width=32"]


def judged(world: WorldConfig, folder: Path, capsys: pytest.CaptureFixture[str], *, epochs: int) -> dict:
    feed, data, run = folder / "feed", folder / "data", folder / "run"
    simulate(world, feed)
    assert main(["prepare", str(feed / "exposures"), "--schema", str(feed / "schema.toml"), "--out", str(data)]) == 0
    assert main(["train", str(data), "--out", str(run), *SETTINGS, "--set", f"training.epochs={epochs}"]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(run), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_interests_are_read_from_the_sequence_and_nothing_is_read_from_shuffled_labels(tmp_path, capsys) -> None:
    size = {"num_users": 250, "num_days": 10, "num_topics": 6, "num_items": 300, "new_items_per_day": 20}
    found = judged(WorldConfig(**size, interest_boost=4.0), tmp_path / "world", capsys, epochs=5)
    click, beside = found["tasks"]["click"], found["baselines"]["click"]
    assert beside["item_user_rate"]["auc"] + 0.03 < click["auc"] < beside["oracle"]["auc"]
    shuffled = judged(WorldConfig(**size, shuffle_labels=True), tmp_path / "shuffled", capsys, epochs=2)
    assert shuffled["tasks"]["click"]["auc"] == pytest.approx(0.5, abs=0.04)
