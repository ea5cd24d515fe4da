"""The cache's bookkeeping, and the store's."""

import threading
from collections import OrderedDict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrank.errors import DataError
from genrank.serving.cache import ByteBudgetCache
from genrank.serving.store import Event, SQLiteStore


def cache(budget: int) -> ByteBudgetCache[str, bytes]:
    return ByteBudgetCache(budget, size=len)


def test_the_least_recently_used_leaves_first() -> None:
    kept = cache(10)
    for key in "abc":
        kept.put(key, b"xxx")
    assert kept.get("a") == b"xxx"
    kept.put("d", b"xxx")
    assert [kept.get(key) for key in "abcd"] == [b"xxx", None, b"xxx", b"xxx"]
    counts = kept.counts()
    assert (counts.hits, counts.misses, counts.evictions, counts.entries, counts.num_bytes) == (4, 1, 1, 3, 9)
    assert counts.hit_rate == 0.8


def test_what_never_fits_is_not_kept() -> None:
    kept = cache(4)
    kept.put("a", b"xx")
    kept.put("a", b"xxxxx")
    assert kept.get("a") is None
    assert kept.counts().refused == 1
    assert kept.counts().num_bytes == 0
    none = cache(0)
    none.put("a", b"x")
    assert none.get("a") is None
    with pytest.raises(ValueError, match="max_bytes"):
        cache(-1)


@given(st.lists(st.tuples(st.sampled_from("pgr"), st.sampled_from("abcdef"), st.integers(0, 6)), max_size=60))
@settings(deadline=None)
def test_it_does_as_a_plain_list_would(actions: list[tuple[str, str, int]]) -> None:
    kept, model = cache(10), OrderedDict[str, int]()
    for what, key, size in actions:
        if what == "p":
            kept.put(key, b"x" * size)
            model.pop(key, None)
            model[key] = size
            while sum(model.values()) > 10:
                model.popitem(last=False)
        elif what == "g":
            found = kept.get(key)
            assert (None if found is None else len(found)) == model.get(key)
            if key in model:
                model.move_to_end(key)
        else:
            assert kept.remove_where(lambda each, key=key: each == key) == (model.pop(key, None) is not None)
        assert kept.counts().num_bytes == sum(model.values())
        assert kept.counts().entries == len(model)


def test_several_threads_keep_to_the_budget() -> None:
    kept = cache(100)

    def work(name: str) -> None:
        for turn in range(500):
            kept.put(f"{name}{turn % 30}", b"x" * (turn % 9))
            kept.get(f"{name}{turn % 7}")

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counts = kept.counts()
    assert counts.num_bytes <= 100
    assert counts.hits + counts.misses == 2000


def event(item: str, time: int, **changes: object) -> Event:
    return Event(user="u", item=item, time=time, **changes)


def test_an_event_sent_again_changes_nothing(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "s.sqlite")
    assert len(store.append([event("a", 5), event("b", 3)])) == 2
    first = store.events("u")
    assert [each.item for each in first.events] == ["b", "a"]
    assert len(store.append([event("a", 5)])) == 0
    assert store.events("u") == first
    assert store.version("u") == first.version
    assert len(store.append([event("a", 5, actions={"like": True})])) == 1
    second = store.events("u")
    assert second.version > first.version
    assert second.revisions[0] == first.revisions[0]
    assert second.revisions[1] != first.revisions[1]
    assert second.events[1].actions == {"like": True}
    assert store.events("other").version == store.version("other") == 0


def test_an_id_tells_events_apart(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "s.sqlite")
    assert len(store.append([event("a", 5, id="1"), event("a", 5, id="2"), event("a", 9, id="1")])) == 3
    assert [each.time for each in store.events("u").events] == [5, 9]  # the second came under a known id


def test_all_or_nothing(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "s.sqlite")
    with pytest.raises(TypeError):
        store.append([event("a", 5), event("b", 6, actions={"x": object()})])
    assert store.events("u").events == ()
    assert len(store.append([event("a", 5)])) == 1


def test_two_connections_see_each_other(tmp_path: Path) -> None:
    one, other = (SQLiteStore(tmp_path / "s.sqlite") for _ in range(2))
    one.append([event("a", 5)])
    assert other.version("u") == 1
    other.append([event("b", 6)])
    assert [each.item for each in one.events("u").events] == ["a", "b"]


def test_a_file_that_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "s.sqlite").write_text("not a database at all, and long enough to be looked at" * 9)
    with pytest.raises(DataError, match="can't be opened as a store of events"):
        SQLiteStore(tmp_path / "s.sqlite")
