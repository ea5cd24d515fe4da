"""Writes examples of the present formats on disk: python tests/formats/make.py tests/formats/NAME.

A tiny simulated feed is prepared, a ranker is trained on it and published with its golden requests, a retriever gets an
index, and a store of events, a request log and an archive of cells are written beside them. `expected.json` has the
formats' numbers and the figures that the files give. A set is made once, when a format gets a new number, and committed
as NAME.tar.xz and NAME.json; test_formats.py opens all of them.
"""

import json
import shutil
import sys
import tarfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import genrank
from genrank.artifacts import bundle, index
from genrank.cli import main
from genrank.data import manifest
from genrank.inference import published
from genrank.inference.gen_retriever import GenRetriever
from genrank.inference.request_log import RequestLog, ServedRanking
from genrank.inference.sqlite_store import SQLiteStore
from genrank.inference.store import Event
from genrank.preparation.prepare import PrepareOptions, prepare
from genrank.preparation.sources.files import files
from genrank.recipes import recipe
from genrank.schema import LogSchema, Statistics
from genrank.simulation import WorldConfig, simulate
from genrank.studies import cell_archive, cells

WORK = Path("/tmp/genrank-formats")  # files name the folders that they were made from
WORLD = WorldConfig(num_users=12, num_days=4, num_items=40, new_items_per_day=2, num_topics=4, num_authors=5,
                    embedding_dim=4, late_share=0.2)  # fmt: skip
PARTS = (
    "prepared",
    "published",
    "retriever/bundle",
    "retriever/index",
    "store.sqlite",
    "requests.jsonl",
    "cells.jsonl.gz",
)
TINY = ("model.width=8", "model.num_heads=2", "model.num_blocks=1", "model.feedforward=8", "model.embedding_dim=4",
        "training.epochs=1", "sequence.max_history=16", "threads=1")  # fmt: skip
STATISTICS = Statistics(enabled=True, windows=("1d", "all"))


def formats() -> dict[str, int]:
    """The numbers of the formats that this version writes."""
    return {
        "prepared": manifest.FORMAT,
        "bundle": bundle.FORMAT,
        "index": index.FORMAT,
        "golden": published.GOLDEN_FORMAT,
        "cell": cells.FORMAT,
        "cell archive": cell_archive.FORMAT,
    }


def call(*arguments: object) -> None:
    assert main([str(argument) for argument in arguments]) == 0, arguments


def settings(*values: str) -> list[str]:
    return [word for value in values for word in ("--set", value)]


def make(name: Path) -> None:
    """Write the set `name`: an archive, and the figures that its files give."""
    shutil.rmtree(WORK, ignore_errors=True)
    simulate(WORLD, WORK / "feed")
    data, run, retriever = WORK / "prepared", WORK / "run", WORK / "retriever"
    schema = replace(LogSchema.from_toml(WORK / "feed" / "schema.toml"), statistics=STATISTICS)
    source = files([WORK / "feed" / "exposures"], schema=schema, folder=WORK / "feed")
    prepare(source, out=data, options=PrepareOptions(num_buckets=2))
    call("train", data, "--recipe", "genrank-small", "--out", run, *settings(*TINY))
    call("publish", run, "--to", WORK / "published")
    small = settings(*TINY, "model.num_candidates=10", "model.num_hard=4")
    call("train", data, "--recipe", "grank-small", "--out", retriever, *small)
    call("index", retriever)
    expected = {"formats": formats(), "rankings": rankings(WORK), "retrieved": retrieved(WORK)}
    write_request_log(WORK, expected["rankings"])
    expected |= {"store": write_store(WORK / "store.sqlite"), "cells": write_cells(WORK)}
    with tarfile.open(name.with_suffix(".tar.xz"), "x:xz") as archive:
        for part in PARTS:
            archive.add(WORK / part, part, filter=_plain)
    name.with_suffix(".json").write_text(json.dumps(expected, indent=1) + "\n", encoding="utf-8")


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """The entry without its owner; None for notes of checks and locks."""
    if Path(entry.name).name.startswith(".") or entry.name.endswith(".lock"):
        return None
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


def rankings(folder: Path) -> list[dict[str, Any]]:
    """What the published model scores for users of the log."""
    ranker = genrank.load(folder / "published", data=folder / "prepared")
    return [
        {
            "user": user,
            "num_history": ranking.num_history,
            "scores": {each.item: each.scores for each in ranking.places},
        }
        for user in ("u0000001", "u0000002", "u0000003")
        for ranking in [ranker.rank(user, ["i0000001", "i0000007", "i0000011"])]
    ]


def retrieved(folder: Path) -> list[dict[str, Any]]:
    """What the retriever finds, scored exactly."""
    retriever = GenRetriever.load(folder / "retriever", data=folder / "prepared", precision="float32")
    found = [retriever.retrieve(f"u000000{n}", k=5) for n in (1, 2)]
    return [{"user": each.user, "items": dict(zip(each.items, each.scores, strict=True))} for each in found]


def write_store(path: Path) -> list[dict[str, Any]]:
    """A store with events of two users; one of them was corrected."""
    events = [
        Event(user="u0000001", item="i0000001", time=1_700_000_000, request="a", position=0, actions={"click": True}),
        Event(user="u0000001", item="i0000002", time=1_700_000_000, request="a", position=1, context={"hour": "7"}),
        Event(user="né", item="i0000003", time=1_700_000_060, id="42", known_at=1_700_000_100, version=1),
        Event(user="né", item="i0000003", time=1_700_000_060, id="42", known_at=1_700_000_100, version=2,
              actions={"click": True, "dwell": 12.5}),
    ]  # fmt: skip
    store = SQLiteStore(path)
    for event in events:
        store.append([event])
    store.close()
    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
    return [asdict(event) for event in (*events[:2], events[3])]


def write_request_log(folder: Path, served: list[dict[str, Any]]) -> None:
    """The rankings as a service of that model would log them."""
    ranker = genrank.load(folder / "published", data=folder / "prepared")
    log = RequestLog(folder / "requests.jsonl")
    for each in served:
        ranking = ServedRanking(
            model=ranker.bundle.version,
            user=each["user"],
            candidates=tuple(each["scores"]),
            time=ranker.rank(each["user"], list(each["scores"])).time,
            history=each["num_history"],
            scores=each["scores"],
        )
        log.note(ranking, WORK / "published" / ranker.bundle.version)
    log.close()


def write_cells(folder: Path) -> dict[str, float]:
    """An archive of two cells: file name -> AUC."""
    made = [cells.Cell(data="d" * 16, seed=seed, config=recipe("genrank-small")) for seed in range(2)]
    for cell in made:
        figures = {"test": {"all": {"click": {"auc": 0.5 + cell.seed / 8}}}}
        cells.write_cell(folder / "cells", cell, cells.CellResult(figures=figures))
    cell_archive.pack(folder / "cells")
    shutil.rmtree(folder / "cells")
    return {cell.file_name: 0.5 + cell.seed / 8 for cell in made}


if __name__ == "__main__":
    make(Path(sys.argv[1]))
