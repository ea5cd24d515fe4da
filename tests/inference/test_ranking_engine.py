"""A served score is the offline one: over a history that is kept, grows, is sent late, changed, or read again."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from genrank.data.timeline_files import num_buckets
from genrank.data.vocabulary_files import read_vocabulary
from genrank.errors import RequestError
from genrank.inference.catalogue import Item
from genrank.inference.gen_ranker import check_time
from genrank.inference.pasts import PastInMemory, PastOnDisk
from genrank.inference.ranking_engine import EngineRequest, RankingEngine
from genrank.inference.sqlite_store import SQLiteStore
from genrank.inference.store import Event
from served_feed import MAX_HISTORY, ServedFeed

RANKERS = ("genrank", "alibi-both", "user-prefix", "one-block", "hstu", "interleaved", "din", "sim-soft", "hstu-sim")


@pytest.fixture(scope="module")
def served(data: Path) -> ServedFeed:
    return ServedFeed(data)


@pytest.mark.parametrize("name", RANKERS)
def test_a_stream_of_requests_and_events_scores_as_evaluation_does(
    name: str, served: ServedFeed, tmp_path: Path
) -> None:
    model = served.ranker(name)
    judged, store = served.judged(model), SQLiteStore(tmp_path / "events.sqlite")
    engine, compared, encoded = served.engine(model, store), 0, []
    for rows, request in served.requests(model):
        (found,) = engine.score([request])
        for place, row in enumerate(rows.tolist()):
            for task, score in judged[row].items():
                assert found.scores[task][place] == pytest.approx(score, abs=1e-5, rel=1e-5)
                compared += 1
        encoded.append((found.num_encoded, found.num_history))
        assert len(store.append(served.events(request.user, rows))) == len(rows)
    assert compared > 300
    if name != "din":
        assert sum(new for new, _ in encoded) < sum(seen for _, seen in encoded)


@pytest.mark.parametrize("name", ["genrank", "hstu", "din"])
def test_kept_and_anew_alone_and_together_are_the_same(name: str, served: ServedFeed) -> None:
    model = served.ranker(name)
    requests = [request for _, request in served.requests(model)][:30]
    engine, anew = served.engine(model, None), served.engine(model, None, cache=False)
    alone = [engine.score([request])[0] for request in requests]
    assert_equal(engine.score(requests), alone)
    assert_equal(anew.score(requests[::-1])[::-1], alone)


def assert_equal(found: list[Any], expected: list[Any]) -> None:
    for one, other in zip(found, expected, strict=True):
        for task, score in other.scores.items():
            np.testing.assert_allclose(one.scores[task], score, atol=1e-5, rtol=1e-5)


def test_bf16_logits_are_close_cached_and_appended(served: ServedFeed) -> None:
    model = served.ranker("genrank")
    requests = list({request.user: request for _, request in served.requests(model)}.values())[:20]
    kept = served.engine(model, None, dtype="bf16")
    engines = {"anew": served.engine(model, None, dtype="bf16", cache=False), "first": kept, "kept": kept}
    expected = served.engine(model, None).score(requests)
    for name, engine in engines.items():
        for fine, coarse in zip(expected, engine.score(requests), strict=True):
            for task in ("click", "like"):
                one, other = (np.log(s.scores[task]) - np.log1p(-s.scores[task]) for s in (fine, coarse))
                np.testing.assert_allclose(other, one, atol=2e-2, err_msg=f"{name}, {task}")
            assert coarse.num_encoded == (0 if name == "kept" else coarse.num_history)


@pytest.fixture
def one(served: ServedFeed, tmp_path: Path) -> tuple[RankingEngine, SQLiteStore, EngineRequest, list[Event]]:
    """An engine, its store, the first request of some user, and a few events after it."""
    model = served.ranker("genrank")
    store = SQLiteStore(tmp_path / "events.sqlite")
    rows, request = next(iter(served.requests(model)))
    events = [replace(e, time=request.time + 10 * n) for n, e in enumerate(served.events(request.user, rows))]
    return served.engine(model, store), store, replace(request, time=request.time + 10_000), events


def test_only_what_is_new_is_encoded(one: tuple[RankingEngine, SQLiteStore, EngineRequest, list[Event]]) -> None:
    engine, store, request, events = one
    first = engine.score([request])[0]
    assert first.num_encoded == first.num_history > 3
    assert engine.score([request])[0].num_encoded == 0
    store.append(events[:2])
    found = engine.score([request])[0]
    assert found.num_encoded in (2, found.num_history)  # all of them if the window moved
    assert engine.score([request])[0].num_encoded == 0


def test_a_late_and_a_changed_event_count_as_if_they_had_come_in_time(
    one: tuple[RankingEngine, SQLiteStore, EngineRequest, list[Event]], served: ServedFeed, tmp_path: Path
) -> None:
    engine, store, request, events = one
    store.append(events[2:])
    engine.score([request])
    store.append(events[:2])  # late
    liked = replace(events[3], actions={**events[3].actions, "like": True, "follow": True})
    assert len(store.append([liked, events[2]])) == 1  # one has changed, one has not
    late = engine.score([request])[0]
    in_time = SQLiteStore(tmp_path / "other.sqlite")
    in_time.append([*events[:3], liked, *events[4:]])
    assert_equal([served.engine(engine.model, in_time).score([request])[0]], [late])
    assert late.num_encoded < late.num_history or late.num_history < MAX_HISTORY


def test_events_outlive_the_service(
    one: tuple[RankingEngine, SQLiteStore, EngineRequest, list[Event]], served: ServedFeed, tmp_path: Path
) -> None:
    engine, store, request, events = one
    store.append(events)
    before = engine.score([request])
    store.close()
    again = served.engine(engine.model, SQLiteStore(tmp_path / "events.sqlite"))
    assert_equal(again.score([request]), before)


def test_later_events_are_not_seen(one: tuple[RankingEngine, SQLiteStore, EngineRequest, list[Event]]) -> None:
    engine, store, request, events = one
    now = replace(request, time=events[0].time)
    before = engine.score([now])
    store.append(events)
    assert_equal(engine.score([now]), before)


def test_an_unknown_user_and_unknown_items_are_scored(served: ServedFeed) -> None:
    engine = served.engine(served.ranker("genrank"), None)
    found = engine.score([EngineRequest(user="nobody", items=np.zeros(3, np.int64), time=served.test_start)])[0]
    assert not found.user_known
    assert found.num_history == 0
    assert len(set(found.scores["click"].tolist())) == 1


def test_a_new_user_has_a_history_from_the_first_event_on(
    one: tuple[RankingEngine, SQLiteStore, EngineRequest, list[Event]],
) -> None:
    engine, store, request, events = one
    store.append([replace(event, user="new") for event in events])
    found = engine.score([replace(request, user="new")])[0]
    assert not found.user_known
    assert found.num_history == len(events)


def test_a_history_that_was_cut_scores_as_the_whole_one(served: ServedFeed, tmp_path: Path) -> None:
    """Windows begin at the same events, however many older ones are gone."""
    model = served.ranker("genrank")
    rows, request = next(iter(served.requests(model)))
    (event, *_) = served.events(request.user, rows)
    many = [replace(event, user="new", time=event.time + n, item=str(n % 50)) for n in range(301)]
    short, long = (SQLiteStore(tmp_path / f"{size}.sqlite", max_events=size) for size in (60, 4000))
    for begin in range(0, len(many), 13):
        asked = replace(request, user="new", time=many[begin].time)
        one, other = (served.engine(model, store).score([asked]) for store in (short, long))
        assert_equal(one, other)
        assert one[0].num_history == other[0].num_history
        for store in (short, long):
            store.append(many[begin : begin + 13])
    assert len(short.events("new").archived or ()) > 200
    assert len(short.events("new").events) <= 75


@pytest.mark.parametrize(
    ("actions", "said"),
    [({"clik": 1}, "no task or feedback 'clik'"), ({"click": 3}, "true, false or null"), ({"dwell": -1.0}, "seconds")],
)
def test_events_that_make_no_sense(actions: dict[str, Any], said: str, served: ServedFeed) -> None:
    histories = served.engine(served.ranker("genrank"), None).histories
    with pytest.raises(RequestError, match=said):
        histories.check(Event(user="u", item="i", time=1, actions=actions))
    with pytest.raises(RequestError, match="no feature 'devise'"):
        histories.check(Event(user="u", item="i", time=1, context={"devise": "x"}))


def test_the_past_is_the_same_from_disk_and_from_memory(served: ServedFeed) -> None:
    disk, memory = PastOnDisk(served.folder, served.spec), PastInMemory(served.folder, served.spec)
    for row in (0, 1, 7, 10**6):
        one, other = disk.of(row), memory.of(row)
        assert one.users.tolist() == other.users.tolist() == [row]
        np.testing.assert_array_equal(one.time, other.time)
        np.testing.assert_array_equal(one.item, other.item)
        np.testing.assert_array_equal(one.features["device"], other.features["device"])


def test_a_users_past_is_read_from_the_bucket_that_holds_it(
    served: ServedFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []
    real = pq.ParquetFile
    monkeypatch.setattr(pq, "ParquetFile", lambda path, **options: (opened.append(path), real(path, **options))[1])
    disk, buckets = PastOnDisk(served.folder, served.spec), num_buckets(served.folder)
    assert buckets > 1
    for row in (1, 2, 9):
        opened.clear()
        assert disk.of(row).num_exposures > 0
        parts = [path for path in opened if path.is_relative_to(served.folder / "timelines")]
        assert {path.parent.name for path in parts} == {f"bucket={row % buckets:04d}"}


def test_a_new_item_ranks_at_once_by_its_content(served: ServedFeed) -> None:
    engine = served.engine(served.ranker("genrank"), None)
    catalogue, items = engine.histories.catalogue, served.data.items
    _, request = next(iter(served.requests(engine.model)))
    row = int(request.items[0])
    features = {"content": items.features["content"][row].tolist(), **raw_features(served, row)}
    twin = EngineRequest(user=request.user, items=catalogue.find(["new"]), time=request.time)
    assert twin.items.tolist() == [0]
    unknown = engine.score([twin])[0]
    assert catalogue.put([Item(id="new", features=features)]) == 1
    found = engine.score([replace(twin, items=catalogue.find(["new"]))])[0]
    assert abs(found.scores["click"] - unknown.scores["click"]) > 1e-4
    assert len(catalogue) == len(items)  # row 0 is nobody's
    old, new = (catalogue.table.rows(np.array([place])) for place in (row, len(items)))
    for name in set(items.features) - {"item_id"}:
        one, other = (np.asarray(getattr(features[name], "values", features[name])) for features in (old, new))
        np.testing.assert_array_equal(one, other, err_msg=name)
    assert catalogue.table.features["item_id"][-1] == 0


def raw_features(served: ServedFeed, row: int) -> dict[str, Any]:
    """What a backend would send of an item."""
    table, raw = served.data.items, {}
    for name in ("topic", "author", "tags"):
        size = next(feature.size for feature in served.spec.features if feature.name == name)
        values = {v: k for k, v in read_vocabulary(served.folder, name, size).items()}
        found = table.rows(np.array([row]))[name]
        raw[name] = values[int(found[0])] if name != "tags" else [values[int(i)] for i in found.values]
    bucket, edges = int(table.features["length"][row]), served.data.manifest.boundaries["length"]
    return raw | {"length": edges[bucket - 2] if bucket > 1 else edges[0] - 1}


def test_a_changed_item_is_encoded_anew(one: tuple[RankingEngine, SQLiteStore, EngineRequest, list[Event]]) -> None:
    engine, _, request, _ = one
    before = engine.score([request])[0]
    history = engine.histories.of(request.user)
    seen = int(history.timeline.item[-1])
    engine.histories.catalogue.put([Item(id=str(engine.histories.catalogue.table.ids[seen]), features={"length": 1.0})])
    after = engine.score([request])[0]
    assert 0 < after.num_encoded < after.num_history
    assert not np.allclose(after.scores["click"], before.scores["click"])


@pytest.mark.parametrize(
    ("item", "said"),
    [
        (Item(id=""), "id is empty"),
        (Item(id="x", features={"colour": "red"}), "item: there is no feature 'colour'"),
        (Item(id="x", features={"content": [1.0]}), "content must be"),
        (Item(id="x", features={"content": "red"}), "content must be"),
        (Item(id="x", features={"length": "long"}), "item: length must be a number"),
    ],
)
def test_items_that_make_no_sense(item: Item, said: str, served: ServedFeed) -> None:
    catalogue = served.engine(served.ranker("genrank"), None).histories.catalogue
    before = catalogue.table
    with pytest.raises(RequestError, match=said):
        catalogue.put([Item(id="fine"), item])
    assert catalogue.table is before


@pytest.mark.parametrize("time", [-1, 1_752_000_000_000])
def test_a_time_that_is_no_time_in_seconds_is_refused(time: int) -> None:
    with pytest.raises(RequestError, match="seconds since the epoch"):
        check_time(time)
    assert check_time(1_752_000_000) == 1_752_000_000
