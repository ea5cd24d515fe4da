"""The cache's bookkeeping."""

import threading
from collections import OrderedDict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrank.inference.cache import ByteBudgetCache


def cache(budget: int) -> ByteBudgetCache[str, bytes]:
    return ByteBudgetCache(budget, size=lambda _, value: len(value))


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
