"""A run that was stopped goes on after its folder has grown, if what it learns from is as it was."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import genrank
from amounts import crossed
from genrank.artifacts.bundle import load_bundle
from genrank.data.manifest import Manifest
from genrank.errors import DataError
from genrank.preparation.extending import expire, extend
from genrank.preparation.prepare import prepare
from genrank.preparation.sources.files import files
from growing_logs import DAY, OPTIONS, SCHEMA, START, by_days, random_log, rows_where

TINY = ["model.width=16", "model.num_heads=2", "threads=1", "training.epochs=3", "evaluation.num_bootstrap=0",
        "training.checkpoint_steps=3", "training.log_steps=1", "loader.batch_tokens=100"]  # fmt: skip
Log = Mapping[str, list[Any]]


def source(folder: Path, log: Log, schema=SCHEMA):
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(dict(log)), folder / "log.parquet")
    return files([folder / "log.parquet"], schema=schema, folder=folder)


def prepared(folder: Path, log: Log, schema=SCHEMA, **options: Any) -> Path:
    prepare(source(folder, log, schema), out=folder / "data", options=replace(OPTIONS, **options))
    return folder / "data"


def stopped(run: Path) -> Path:
    """The run as it was when it had written its first checkpoint."""
    steps = sorted((run / "checkpoints").glob("step-*"))
    assert len(steps) == 2
    shutil.rmtree(steps[1])
    (run / "checkpoints" / "latest").write_text(steps[0].name)
    shutil.rmtree(run / "bundle")
    return run


def same(one: Path, other: Path) -> bool:
    """Whether two runs have the same weights and metrics, bit for bit."""
    weights = [load_bundle(run).model().state_dict() for run in (one, other)]
    assert weights[0].keys() == weights[1].keys()
    metrics = [(run / "metrics.jsonl").read_bytes() for run in (one, other)]
    return metrics[0] == metrics[1] and all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def train(data: Path, out: Path, *settings: str, **options: Any) -> Path:
    options = {"recipe": "genrank-small"} | options
    return genrank.train(data, out=out, settings=[*TINY, *settings], **options).folder


@pytest.mark.parametrize(
    ("days_per_part", "days"),
    crossed(
        [1, 4],  # 4: the part in which learning ends grows too
        [
            {},
            {"until": START + 5 * DAY, "test": START + 5 * DAY},
            {"until": START + 3 * DAY, "test": START + 4 * DAY},
        ],
        ids=[["days apart", "days together"], ["as prepared", "all days that there are", "until a day"]],
    ),
)
def test_a_stopped_run_goes_on_in_a_grown_folder_bit_for_bit(tmp_path: Path, days_per_part: int, days) -> None:
    before, later = by_days(random_log(4), [5])
    data = prepared(tmp_path, before, days_per_part=days_per_part)
    whole = train(data, tmp_path / "whole", **days)
    shutil.copytree(whole, tmp_path / "stopped")
    extend(source(tmp_path / "more", later), data, options=OPTIONS)
    assert Manifest.load(data).counts.exposures > len(before["time"])
    genrank.train(data, out=stopped(tmp_path / "stopped"), resume=True)
    assert same(whole, tmp_path / "stopped")


def test_a_run_without_a_checkpoint_begins_again_in_a_grown_folder(tmp_path: Path) -> None:
    before, later = by_days(random_log(4), [5])
    data = prepared(tmp_path, before)
    whole = train(data, tmp_path / "whole")
    again = tmp_path / "again"
    shutil.copytree(whole, again)
    for name in ("checkpoints", "bundle"):
        shutil.rmtree(again / name)
    extend(source(tmp_path / "more", later), data, options=OPTIONS)
    genrank.train(data, out=again, resume=True)
    assert same(whole, again)


def refused(run: Path, data: Path, message: str) -> None:
    with pytest.raises(DataError, match=message + ".* since the run .* began; start a new run") as raised:
        genrank.train(data, out=run, resume=True)
    assert "\n" not in str(raised.value)


def test_late_exposures_on_learned_days_are_a_reason_to_refuse(tmp_path: Path) -> None:
    before, later = by_days(random_log(4), [4])
    days = [(time - START) // DAY for time in before["time"]]
    kept = [day != 2 or number % 2 == 0 for number, day in enumerate(days)]
    data = prepared(tmp_path, rows_where(before, kept))
    run = stopped(train(data, tmp_path / "run", until=START + 4 * DAY))
    missing = rows_where(before, [not keep for keep in kept])
    extend(source(tmp_path / "more", {name: missing[name] + later[name] for name in later}), data, options=OPTIONS)
    refused(run, data, r"has got \d+ more exposures on days that the run learns from")


def test_expired_days_are_a_reason_to_refuse(tmp_path: Path) -> None:
    data = prepared(tmp_path, random_log(4))
    run = stopped(train(data, tmp_path / "run"))
    expire(data, before=START // DAY + 1)
    refused(run, data, "has lost days that the run learns from or sees as history")


@pytest.mark.parametrize("change", ["labels", "items", "split"])
def test_a_folder_that_was_prepared_anew_is_refused(tmp_path: Path, change: str) -> None:
    log = random_log(4)
    data = prepared(tmp_path, log)
    run = stopped(train(data, tmp_path / "run"))
    shutil.rmtree(data)
    schema = SCHEMA
    if change == "labels":
        log["click"] = [1 - value for value in log["click"]]
    elif change == "items":
        log["topic"] = [
            f"{topic}x" if item == "i1" else topic for topic, item in zip(log["topic"], log["item"], strict=True)
        ]
    else:
        schema = replace(SCHEMA, split=replace(SCHEMA.split, valid_start=START + DAY))
    assert prepared(tmp_path, log, schema) == data
    refused(run, data, "has got other exposures" if change == "labels" else "was prepared anew, with")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("loader.max_exposures=150", r"has grown, and a log that is read in pools \(loader.max_exposures\)"),
        ("train_share=0.9", "has grown, and train_share draws other users then"),
    ],
)
def test_settings_that_depend_on_the_whole_folder_are_named(tmp_path: Path, setting: str, message: str) -> None:
    before, later = by_days(random_log(4), [5])
    data = prepared(tmp_path, before)
    run = train(data, tmp_path / "run", setting)
    extend(source(tmp_path / "more", later), data, options=OPTIONS)
    refused(run, data, message)


def test_a_run_of_an_earlier_version_says_only_that_its_folder_changed(tmp_path: Path) -> None:
    before, later = by_days(random_log(4), [5])
    data = prepared(tmp_path, before)
    run = stopped(train(data, tmp_path / "run"))
    values = json.loads((run / "data.json").read_text())
    (run / "data.json").write_text(json.dumps({name: values[name] for name in ("folder", "hash")}))
    extend(source(tmp_path / "more", later), data, options=OPTIONS)
    refused(run, data, "was extended or prepared anew")
