"""Files of every format that there has been open, and give the figures that were written down when they were made.

An older format may be refused instead, in one line that names the command which makes the files anew.
"""

import json
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import genrank
from formats.make import formats, rankings, retrieved
from genrank.data.manifest import Manifest
from genrank.documents import parse_json
from genrank.errors import InputError
from genrank.inference.gen_ranker import GenRanker
from genrank.inference.published import check_golden, current
from genrank.inference.replay import replay
from genrank.inference.sqlite_store import SQLiteStore
from genrank.inference.store import Event
from genrank.studies.cell_archive import read_archive

HERE = Path(__file__).parent
SETS = sorted((path.stem for path in HERE.glob("v*.json")), key=lambda name: int(name[1:]))


@dataclass(frozen=True)
class Example:
    """One set of files, unpacked."""

    folder: Path
    expected: dict[str, Any]

    @contextmanager
    def reading(self, *kinds: str) -> Iterator[None]:
        """Files of the formats that this version writes must be read; older ones may be refused with a remedy."""
        try:
            yield
        except InputError as problem:
            self._check_refusal(str(problem), kinds)

    def _check_refusal(self, message: str, kinds: tuple[str, ...]) -> None:
        assert any(self.expected["formats"][kind] < formats()[kind] for kind in kinds), message
        assert "run genrank " in message or "train again" in message
        assert "\n" not in message


@pytest.fixture(scope="module", params=SETS)
def example(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Example:
    folder = tmp_path_factory.mktemp("formats") / request.param
    with tarfile.open(HERE / f"{request.param}.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return Example(folder, json.loads((HERE / f"{request.param}.json").read_text(encoding="utf-8")))


def test_the_formats_that_are_written_today_have_an_example() -> None:
    newest = json.loads((HERE / f"{SETS[-1]}.json").read_text(encoding="utf-8"))
    assert newest["formats"] == formats(), "a format has a new number: python tests/formats/make.py tests/formats/vN"
    assert sum(path.stat().st_size for path in HERE.glob(f"{SETS[-1]}.*")) < 300_000


def test_a_prepared_folder_opens_whole(example: Example) -> None:
    with example.reading("prepared"):
        manifest = Manifest.open(example.folder / "prepared")
        assert manifest.format == example.expected["formats"]["prepared"]
        assert manifest.counts.users == 12


def test_a_published_model_ranks_as_it_did(example: Example) -> None:
    with example.reading("prepared", "bundle", "golden"):
        for found, expected in zip(rankings(example.folder), example.expected["rankings"], strict=True):
            assert (found["user"], found["num_history"]) == (expected["user"], expected["num_history"])
            assert list(found["scores"]) == list(expected["scores"])
            for item, scores in found["scores"].items():
                assert scores == pytest.approx(expected["scores"][item], rel=1e-5)
        published = example.folder / "published"
        check_golden(genrank.load(published, data=example.folder / "prepared").bundle)


def test_an_index_retrieves_as_it_did(example: Example) -> None:
    with example.reading("prepared", "bundle", "index"):
        for found, expected in zip(retrieved(example.folder), example.expected["retrieved"], strict=True):
            assert found["user"] == expected["user"]
            assert found["items"] == pytest.approx(expected["items"], rel=1e-4)


def test_a_store_holds_its_events(example: Example) -> None:
    expected = [Event(**values) for values in example.expected["store"]]
    store = SQLiteStore(example.folder / "store.sqlite")
    for user in {event.user for event in expected}:
        kept = [event for event, _ in store.events(user).events]
        assert kept == [event for event in expected if event.user == user]
    store.append([Event(user="new", item="i0000001", time=1_700_000_500)])
    store.close()


def test_a_request_log_is_replayed(example: Example) -> None:
    with example.reading("prepared", "bundle"):
        published = example.folder / "published"
        again = replay(example.folder / "requests.jsonl", example.folder / "prepared", run=published)
        assert (again.rankings, again.different, again.unreadable) == (3, 0, 0)
        assert isinstance(genrank.load(published / current(published), data=example.folder / "prepared"), GenRanker)


def test_an_archive_of_cells_is_read(example: Example) -> None:
    with example.reading("cell archive"):
        found = {name: parse_json(text) for name, text in read_archive(example.folder / "cells").items()}
        assert {name: cell["figures"]["test"]["all"]["click"]["auc"] for name, cell in found.items()} == (
            example.expected["cells"]
        )
