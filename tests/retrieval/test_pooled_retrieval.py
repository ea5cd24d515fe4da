"""Retrieval from a log that is read in pools of users: as one that is in memory."""

import json
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from exposure_logs import log, prepare_log
from genrank.artifacts.bundle import load_bundle
from genrank.cli import main
from genrank.data.loader import Loader, LoaderConfig
from genrank.data.pooled_loader import PooledLoader
from genrank.data.pools import StoredData, StoredPart
from genrank.evaluation.retrieval_metrics import RetrievedTargets, judge
from genrank.preparation.prepare import PrepareOptions
from genrank.runs.evaluate_retrieval import located
from genrank.runs.retrieval_objective import RetrievalObjective, retrieval_view, validation_figures
from genrank.runs.retrieval_ranks import locate
from genrank.runs.run_config import RunConfig
from genrank.runs.run_data import RunData
from genrank.runs.train import load_run
from genrank.training.trainer import Trainer
from retrievers import SETTINGS

USERS, ROWS, POOLED = 24, 1200, 600


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    random = np.random.default_rng(0)
    rows = log(
        ROWS,
        user=[f"u{row % USERS}" for row in range(ROWS)],
        item=[f"i{item}" for item in random.zipf(1.3, ROWS) % 60],
        click=random.integers(2, size=ROWS).tolist(),
    )
    options = PrepareOptions(threads=2, memory_limit="1GB", num_buckets=8)
    return prepare_log(tmp_path_factory.mktemp("pools"), rows, options=options).folder


def train(folder: Path, out: Path, *more: str, events: str = "positives", **settings: object) -> list[str]:
    chosen = {"loader.max_exposures": POOLED, "loader.batch_tokens": 64, "training.epochs": 2} | settings
    flags = [*SETTINGS, f"model.events={events}", *(f"{name}={value}" for name, value in chosen.items())]
    sets = [flag for setting in flags for flag in ("--set", setting)]
    return ["train", str(folder), "--recipe", "grank-small", "--out", str(out), *sets, *more]


@pytest.fixture(scope="module", params=["positives", "all"])
def run(request: pytest.FixtureRequest, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained from pools."""
    out = tmp_path_factory.mktemp("run") / "run"
    assert main(train(folder, out, events=request.param)) == 0
    return out


def stored(config: RunConfig, folder: Path) -> StoredData:
    return StoredData.open(folder, view=partial(retrieval_view, config.model))


def in_memory(config: RunConfig, folder: Path, part: str, grouping: str) -> Loader:
    data = stored(config, folder).whole()
    builder = data.builder(replace(config.sequence, grouping=grouping), config.model.search)
    return Loader(builder, data.part(builder, part), LoaderConfig(batch_tokens=4096, shuffle=False))


def test_evaluation_finds_what_it_finds_in_memory(folder: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, _ = load_run(run)
    model = load_bundle(run).retriever()
    found, popularity = located(model, StoredData.open(folder), config, "test")
    whole = in_memory(config, folder, "test", "user")
    t, until = whole.builder.timelines, StoredData.open(folder).manifest.split.valid_start
    trained = t.target & (whole.builder.request_time < until)
    np.testing.assert_array_equal(popularity, np.bincount(t.item[trained], minlength=len(whole.items)))
    expected = locate(model, [whole], popularity=popularity)
    for name, values in columns(expected).items():
        np.testing.assert_array_equal(columns(found)[name], values, err_msg=name)
    assert set(expected.ranks) == {"popularity", "generator", "ranker"}
    capsys.readouterr()
    assert main(["evaluate", str(run), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    judged = judge(expected, popularity)
    assert {name: said[name] for name in judged} == json.loads(json.dumps(judged))


def columns(found: RetrievedTargets) -> dict[str, np.ndarray]:
    """In order of request, item and place in the list, which is the same for equal targets."""
    order = np.lexsort((found.item, found.request))
    plain = {f.name: getattr(found, f.name) for f in fields(found) if f.name not in ("ranks", "catalogue")}
    return {name: values[order] for name, values in (plain | dict(found.ranks)).items()}


def test_validation_has_the_figures_that_it_has_in_memory(folder: Path, run: Path) -> None:
    config, _ = load_run(run)
    model = load_bundle(run).retriever()
    pooled, whole = (
        RunData.of(
            stored(config, folder), replace(config, loader=replace(config.loader, max_exposures=most)), pin=False
        )
        for most in (POOLED, ROWS)
    )
    assert isinstance(pooled.held_out, StoredPart)
    assert isinstance(whole.loader, Loader)
    figures = validation_figures(model, pooled.held_out)
    assert figures == validation_figures(model, whole.held_out)
    assert 0 < figures["recall@10"] < 1


@pytest.mark.parametrize("share", [1.0, 0.4])
def test_items_are_counted_as_in_memory(folder: Path, run: Path, share: float) -> None:
    config = replace(load_run(run)[0], train_share=share)
    pooled, whole = (
        RunData.of(
            stored(config, folder), replace(config, loader=replace(config.loader, max_exposures=most)), pin=False
        ).loader
        for most in (POOLED, ROWS)
    )
    counts = whole.item_counts()
    assert 0 < counts.sum() == whole.sizes.num_exposures
    np.testing.assert_array_equal(pooled.item_counts(), counts)


def test_targets_and_seen_items_are_those_of_the_pool_in_use(folder: Path, run: Path) -> None:
    config, _ = load_run(run)
    pooled = RunData.of(stored(config, folder), config, pin=False).loader
    assert isinstance(pooled, PooledLoader)
    objective = RetrievalObjective(load_bundle(run).retriever(), pooled, torch.device("cpu"))
    hard = objective.model_losses.hard
    assert hard is not None
    assert hard.seen is not None
    with pytest.raises(ValueError, match="take a batch first"):
        pooled.builder  # noqa: B018
    whole = in_memory(config, folder, "train", config.sequence.grouping)
    row_at = {int(second): row for row, second in enumerate(whole.builder.timelines.time)}  # a second has one exposure
    pools = set()
    for batch in pooled:
        rows = batch.candidates.exposure
        pools.add(tuple(pooled.builder.timelines.users))
        there = [row_at[second] for second in batch.candidates.time.tolist()]
        assert objective.model_losses.item_of(rows).tolist() == whole.builder.timelines.item[there].tolist()
        place, item = hard.seen(rows)
        expected = [seen_by(whole, row) for row in there]
        assert [sorted(item[place == n].tolist()) for n in range(len(rows))] == expected
    assert len(pools) > 2


def seen_by(loader: Loader, row: int) -> list[int]:
    """Items that the user of a row had before its request."""
    b = loader.builder
    begin = b.timelines.offsets[b.user_of_row[row]]
    return sorted(b.timelines.item[begin : b.visible_end[row]].tolist())


def test_a_pooled_run_that_is_stopped_goes_on_to_the_same_weights(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("genrank.retrieval.hard_negatives.ROWS_PER_STEP", 16)
    step = Trainer.train_step

    def failing(trainer: Trainer, batch: object) -> None:
        if trainer.step == 17:  # seven behind the last checkpoint
            raise KeyboardInterrupt
        step(trainer, batch)

    assert main(train(folder, tmp_path / "whole")) == 0
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "train_step", failing)
        main(train(folder, tmp_path / "stopped", **{"training.checkpoint_steps": 10}))
    assert (tmp_path / "stopped" / "checkpoints" / "latest").read_text().strip() == "step-00000010"
    assert main(["train", str(folder), "--out", str(tmp_path / "stopped"), "--resume"]) == 0
    weights = [next((tmp_path / name / "bundle").glob("*/model.safetensors")) for name in ("whole", "stopped")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
