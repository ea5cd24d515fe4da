import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from amounts import examples
from genrank.nn.native import library
from genrank.retrieval import item_search as module
from genrank.retrieval.item_search import FlatSearch, SearchResult
from genrank.retrieval.live_search import LiveIndex

PRECISIONS = ("float32", "bfloat16", "int8")


def vectors(count: int, width: int, seed: int = 0, *, clusters: int = 0) -> NDArray[np.float32]:
    random = np.random.default_rng(seed)
    drawn = random.normal(size=(count, width))
    if clusters:
        drawn += 1.5 * random.normal(size=(clusters, width))[random.integers(clusters, size=count)]
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


def exhaustive(
    items: NDArray[np.float32],
    queries: NDArray[np.float32],
    k: int,
    excluded: list[NDArray[np.int64]] | None = None,
    allowed: NDArray[np.bool_] | None = None,
) -> list[list[int]]:
    """Sorting all, in float64."""
    found = []
    for number, query in enumerate(queries):
        scores = items.astype(float) @ query.astype(float)
        may = np.ones(len(items), bool) if allowed is None else allowed.copy()
        if excluded is not None:
            may[excluded[number]] = False
        rows = np.flatnonzero(may)
        found.append(rows[np.argsort(-scores[rows], kind="stable")][:k].tolist())
    return found


def listed(found: SearchResult) -> list[list[int]]:
    return [[row for row in rows if row >= 0] for rows in found.rows.tolist()]


@pytest.mark.parametrize("precision", PRECISIONS)
@examples(50, 15)
@given(
    count=st.integers(1, 300), width=st.sampled_from([1, 3, 8, 17]), num_queries=st.integers(0, 11),
    k=st.integers(1, 40), seed=st.integers(0, 10**6), filtered=st.booleans(),
)  # fmt: skip
def test_what_is_found_is_what_sorting_all_finds(
    precision: str, count: int, width: int, num_queries: int, k: int, seed: int, filtered: bool
) -> None:
    random = np.random.default_rng(seed)
    items = random.normal(size=(count, width)).astype(np.float32)
    queries = random.normal(size=(num_queries, width)).astype(np.float32)
    excluded = [np.unique(random.integers(0, count, random.integers(0, 9))) for _ in range(num_queries)]
    allowed = random.random(count) < 0.7
    filters = {"excluded": excluded, "allowed": allowed} if filtered else {}
    found = FlatSearch(items, precision=precision)(queries, k, **filters)
    assert found.rows.shape == found.scores.shape == (num_queries, k)
    for number, (ours, best) in enumerate(zip(listed(found), exhaustive(items, queries, k, **filters), strict=True)):
        assert len(set(ours)) == len(ours) == len(best)
        if filtered:
            assert allowed[ours].all()
            assert not set(ours) & set(excluded[number].tolist())
        scores = items[ours] @ queries[number]
        np.testing.assert_allclose(found.scores[number][: len(ours)], scores, rtol=1e-5, atol=1e-5)
        assert (np.diff(found.scores[number][: len(ours)]) <= 0).all()
        # Coarse looks may miss what stands far behind in them; with 32 more looked at than asked for, hardly ever here.
        reached = np.sort(items[best] @ queries[number])[::-1]
        np.testing.assert_allclose(np.sort(scores)[::-1], reached, atol=1e-5 if precision == "float32" else 0.05)
        assert (found.rows[number][len(ours) :] == -1).all()
        assert (found.scores[number][len(ours) :] == -np.inf).all()


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
@pytest.mark.parametrize("clusters", [0, 40])
def test_coarse_looks_find_nearly_all_of_the_true_best(precision: str, clusters: int) -> None:
    items, queries = vectors(20_000, 64, clusters=clusters), vectors(20, 64, seed=1, clusters=clusters)
    true, found = (
        FlatSearch(items, precision="float32")(queries, 500),
        FlatSearch(items, precision=precision)(queries, 500),
    )
    recalls = [len(np.intersect1d(*rows)) / 500 for rows in zip(true.rows, found.rows, strict=True)]
    assert np.mean(recalls) > 0.995


def test_the_compiled_scan_finds_what_pytorch_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    if library.load() is None:
        pytest.skip("no compiler here")
    items, queries = vectors(5_000, 50), vectors(13, 50, seed=2)
    excluded = [np.arange(number, 5_000, 7) for number in range(13)]
    allowed = np.arange(5_000) % 3 > 0
    compiled = FlatSearch(items)
    assert compiled._native is not None
    monkeypatch.setattr(module, "load", lambda: None)
    plain = FlatSearch(items)
    assert plain._native is None
    one, other = (each(queries, 60, excluded=excluded, allowed=allowed) for each in (compiled, plain))
    np.testing.assert_array_equal(one.rows, other.rows)
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-6)


def test_of_equal_items_the_lower_row_comes_first() -> None:
    items = np.repeat(vectors(4, 8), 5, axis=0)
    for precision in PRECISIONS:
        rows = FlatSearch(items, precision=precision)(items[:1], 20).rows[0]
        np.testing.assert_array_equal(rows[:5], np.arange(5))


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("compiled", [True, False])
@examples(40, 12)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 400), k=st.integers(1, 60), filtered=st.booleans())
def test_of_equal_items_at_the_edge_the_lower_rows_are_found(
    precision: str, compiled: bool, seed: int, count: int, k: int, filtered: bool
) -> None:
    random = np.random.default_rng(seed)
    # Few vectors, of whole numbers that every precision holds: scores are exact, and most of them equal.
    few = np.concatenate([random.integers(-3, 4, (3, 5)), [[127.0], [-127.0], [127.0]]], 1).astype(np.float32)
    items, queries = few[random.integers(0, 3, count)], few[:2]
    excluded = [random.integers(-1, count + 1, 9) for _ in queries]
    allowed = random.random(count) < 0.6
    filters = {"excluded": excluded, "allowed": allowed} if filtered else {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SCORES_AT_ONCE", 128)
        if not compiled:
            patch.setattr(module, "load", lambda: None)
        found = FlatSearch(items, precision=precision)(queries, k, **filters)
    inside = {**filters, "excluded": [rows[(rows >= 0) & (rows < count)] for rows in excluded]} if filtered else {}
    assert listed(found) == exhaustive(items, queries, k, **inside)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_filters_of_another_size_are_refused(precision: str) -> None:
    items = vectors(9, 4)
    search = FlatSearch(items, precision=precision)
    with pytest.raises(ValueError, match=r"allowed has the shape \(8,\); \(9,\) is needed"):
        search(items[:2], 3, allowed=np.ones(8, bool))
    with pytest.raises(ValueError, match="excluded holds rows for 1 queries; there are 2"):
        search(items[:2], 3, excluded=[np.zeros(0, np.int64)])
    with pytest.raises(ValueError, match="k is 0; it must be at least 1"):
        search(items[:2], 0)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_cannot_be_searched_is_refused(precision: str) -> None:
    items = vectors(9, 4)
    broken = items.copy()
    broken[3, 1] = np.nan
    with pytest.raises(ValueError, match="vector 3 is not finite"):
        FlatSearch(broken, precision=precision)
    with pytest.raises(ValueError, match="at least one"):
        FlatSearch(items[:0], precision=precision)
    search = FlatSearch(items, precision=precision)
    with pytest.raises(ValueError, match="width 4"):
        search(items[:, :3], 2)
    with pytest.raises(ValueError, match="query 3 is not finite"):
        search(broken, 2)


@examples(80, 20)
@given(seed=st.integers(0, 10**6), steps=st.lists(st.sampled_from(["put", "change", "remove", "many"]), max_size=8))
def test_a_live_index_finds_what_an_index_of_what_is_there_now_finds(seed: int, steps: list[str]) -> None:
    random = np.random.default_rng(seed)
    width = 6
    now = {row: random.normal(size=width).astype(np.float32) for row in random.choice(40, 20, replace=False).tolist()}
    index = LiveIndex(
        np.array(list(now), np.int64), np.stack(list(now.values())), vectors=lambda x: x * 2, precision="float32"
    )
    module_limit = 1024
    for step in steps:
        if step == "remove" and now:
            rows = random.choice(list(now), min(3, len(now)), replace=False)
            index.remove(rows.astype(np.int64))
            for row in rows.tolist():
                del now[row]
        elif step != "remove":
            pool = list(now) if step == "change" and now else range(module_limit * 3)
            count = module_limit + 5 if step == "many" else min(4, len(pool))
            rows = random.choice(pool, count, replace=False).astype(np.int64)
            fresh = random.normal(size=(len(rows), width)).astype(np.float32)
            index.put(rows, fresh)
            now |= dict(zip(rows.tolist(), fresh, strict=True))
    assert len(index) == len(now)
    query = random.normal(size=(2, width)).astype(np.float32)
    banned = [np.array(list(now)[:3], np.int64), np.zeros(0, np.int64)]
    found, embedded = index.search(query, 30, excluded=banned, allowed=None)
    rows = np.array(list(now), np.int64)
    scores = np.stack([now[row] for row in rows.tolist()]) @ query.T * 2 if len(rows) else np.zeros((0, 2))
    for number in range(2):
        may = ~np.isin(rows, banned[number])
        best = rows[may][np.argsort(-scores[may, number], kind="stable")][:30]
        ours = found.rows[number][found.rows[number] >= 0]
        np.testing.assert_allclose(
            np.sort(found.scores[number][: len(ours)]),
            np.sort(scores[may, number])[::-1][:30][::-1],
            rtol=1e-4,
            atol=1e-5,
        )
        worst = found.scores[number][: len(ours)].min(initial=np.inf)
        for row in set(ours.tolist()) ^ set(best.tolist()):  # as good as the last one, to rounding
            assert now[row] @ query[number] * 2 == pytest.approx(worst, rel=1e-4, abs=1e-5)
        np.testing.assert_array_equal(
            embedded(ours), np.stack([now[row] for row in ours.tolist()]) if len(ours) else embedded(ours)
        )
    assert not embedded(np.array([-1, 10**6])).any()
