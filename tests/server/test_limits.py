"""What one caller can make the service keep is bounded."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from genrank.artifacts.bundle import load_bundle
from genrank.errors import RequestError
from genrank.ids import MAX_ID
from genrank.inference import sqlite_store
from genrank.inference import store as stores
from genrank.inference.catalogue import Item
from genrank.inference.gen_ranker import GenRanker
from genrank.inference.gen_retriever import GenRetriever
from genrank.inference.sqlite_store import SQLiteStore
from genrank.inference.store import Event, UpdatesExpired
from genrank.server.query import PipelineQuery
from genrank.server.ranking_service import RankingService
from genrank.server.service_options import ServiceOptions

LONG = "x" * (MAX_ID + 1)


@pytest.fixture
def service(run: Path) -> Iterator[RankingService]:
    made = RankingService(
        load_bundle(run), store=SQLiteStore(":memory:"), options=ServiceOptions(deadline=20.0, max_new_items=3)
    )
    yield made
    made.stop()


@pytest.mark.parametrize("changed", [{"user": LONG}, {"candidates": ("i", LONG)}])
def test_rankings_name_ids_of_a_bounded_length(service: RankingService, run: Path, changed: dict[str, Any]) -> None:
    asked = PipelineQuery(user="u" * MAX_ID, candidates=("i",))
    service.rank(asked)
    with pytest.raises(RequestError, match=f"at most {MAX_ID} characters, found {MAX_ID + 1}"):
        service.rank(replace(asked, **changed))
    with pytest.raises(RequestError, match=f"at most {MAX_ID} characters"):
        GenRanker.load(run).rank(**{"user": "u", "candidates": ("i",)} | changed)


def test_retrievals_name_ids_of_a_bounded_length(grank: Path) -> None:
    with pytest.raises(RequestError, match=f"at most {MAX_ID} characters"):
        GenRetriever.load(grank).retrieve(LONG)


@pytest.mark.parametrize(
    "changed",
    [{"user": LONG}, {"item": LONG}, {"request": LONG}, {"id": LONG}, {"user": ""},
     {"context": {"device": "x" * stores.MAX_EVENT_BYTES}}],
)  # fmt: skip
def test_a_store_takes_no_event_of_any_size(changed: dict[str, Any]) -> None:
    store = SQLiteStore(":memory:")
    good = Event(user="u", item="i", time=1, context={"device": "x" * 1000})
    with pytest.raises(RequestError, match=r"at most|is empty"):
        store.append([good, replace(good, **changed)])
    assert store.version("u") == 0
    assert len(store.append([good])) == 1


@pytest.mark.parametrize("item", [Item(id=LONG), Item(id=""), Item(id="i", features={"topic": "x" * 200_000})])
def test_a_store_takes_no_item_of_any_size(item: Item) -> None:
    store = SQLiteStore(":memory:")
    with pytest.raises(RequestError, match=r"at most|is empty"):
        store.put_items([Item(id="good"), item])
    assert store.snapshot().items == ()


def test_new_items_are_taken_up_to_a_number(service: RankingService) -> None:
    assert service.put_items([Item(id="a"), Item(id="b")]) == 2
    with pytest.raises(RequestError, match=r"at most 3 are taken.*max_new_items"):
        service.put_items([Item(id="a"), Item(id="c"), Item(id="d")])
    assert service.put_items([Item(id="a"), Item(id="c")]) == 1
    for _ in range(3):
        assert service.put_items([Item(id=name, features={}) for name in "abc"]) == 0
    assert service.deployed.context.catalogue.num_added == 3


def test_updates_are_kept_up_to_a_number_of_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_store, "MAX_IN_MEMORY", 100_000)
    store = SQLiteStore(":memory:")
    position = store.snapshot().position
    for turn in range(100):
        store.put_items([Item(id=f"item {number}", features={"topic": f"{turn}"}) for number in range(20)])
        (update,), position = store.updates(position)
        assert len(update.items) == 20
    assert len(store._updates) < 20
    with pytest.raises(UpdatesExpired, match="have come since"):
        store.updates("0")
    big = tuple(Item(id=f"item {number}") for number in range(2000))  # larger than all that may be kept
    store.put_items(big)
    assert [update.items for update in store.updates(position)[0]] == [big]


def test_users_of_whom_nothing_is_known_share_what_is_kept_and_rank_as_ever(run: Path, service: RankingService) -> None:
    ranker = GenRanker.load(run)
    items = tuple(str(item) for item in ranker.items.ids[1:9].to_pylist())
    expected = ranker.rank("nobody", items)
    entries = service.cache.counts().entries
    for number in range(20):
        asked = PipelineQuery(user=f"nobody {number}", candidates=items, time=expected.time)
        found = service.rank(asked).result(20)
        assert [place.item for place in found.places] == [place.item for place in expected.places]
        for place, other in zip(found.places, expected.places, strict=True):
            assert place.scores == pytest.approx(other.scores, abs=1e-6, rel=1e-6)
    assert service.cache.counts().entries == entries
    assert service.deployed.context.histories.num_bytes == 0
