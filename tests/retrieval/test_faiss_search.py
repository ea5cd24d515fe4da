import sys

import numpy as np
import pytest
from numpy.typing import NDArray

from genrank.errors import MissingExtraError
from genrank.retrieval.faiss_search import FaissSearch, HNSWSearch, IVFSearch
from genrank.retrieval.item_search import FlatSearch

pytest.importorskip("faiss")


def vectors(count: int, seed: int = 0) -> NDArray[np.float32]:
    drawn = np.random.default_rng(seed).normal(size=(count, 16))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module", params=["graph", "lists"])
def index(request: pytest.FixtureRequest) -> FaissSearch:
    items = vectors(2_000)
    if request.param == "graph":
        return HNSWSearch(items, m=16, ef_search=400)
    return IVFSearch(items, num_lists=20, num_probes=18)


def test_with_enough_effort_nearly_all_of_the_true_best_are_found(index: FaissSearch) -> None:
    queries = vectors(10, seed=1)
    true, found = FlatSearch(vectors(2_000), precision="float32")(queries, 50), index(queries, 50)
    recalls = [len(np.intersect1d(*rows)) / 50 for rows in zip(true.rows, found.rows, strict=True)]
    assert np.mean(recalls) > 0.97
    scores = np.einsum("qw,qkw->qk", queries, vectors(2_000)[found.rows])
    np.testing.assert_allclose(found.scores, scores, atol=1e-5)
    assert (np.diff(found.scores) <= 0).all()


def test_what_is_filtered_out_is_not_found(index: FaissSearch) -> None:
    queries = vectors(3, seed=1)
    allowed = np.arange(2_000) % 2 == 0
    excluded = [index(queries, 10).rows[number] for number in range(2)] + [np.array([-1, 5_000])]
    found = index(queries, 30, excluded=excluded, allowed=allowed)
    assert (found.rows % 2 == 0).all()
    assert not any(np.isin(*rows).any() for rows in zip(found.rows, excluded, strict=True))
    assert index(queries, 2_000, excluded=excluded).rows.max() == 1_999  # row -1 is nobody


def test_where_fewer_are_left_the_rest_is_filled_up(index: FaissSearch) -> None:
    found = index(vectors(2, seed=1), 5, allowed=np.zeros(2_000, bool))
    assert (found.rows == -1).all()
    assert (found.scores == -np.inf).all()


def test_what_cannot_be_searched_is_refused(index: FaissSearch) -> None:
    broken = vectors(3)
    broken[1, 2] = np.inf
    with pytest.raises(ValueError, match="query 1 is not finite"):
        index(broken, 2)
    with pytest.raises(ValueError, match="allowed has the shape"):
        index(vectors(3), 2, allowed=np.ones(3, bool))


def test_without_faiss_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'genrank\[index\]'"):
        HNSWSearch(vectors(3))
