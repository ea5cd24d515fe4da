"""Approximate search by FAISS with the interface of flat search: HNSW graphs and inverted lists (IVF).

Flat search is compared with them. As in all such indexes, longer filters leave fewer items that they can find.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from genrank.errors import MissingExtraError
from genrank.retrieval.item_search import Floats, Ints, Mask, SearchResult, check_filters, checked_queries


class FaissSearch(ABC):
    """A FAISS index over vectors of one width. ValueError if a vector is not finite."""

    def __init__(self, index: Any, vectors_IW: Floats):
        self.faiss, self.index = import_faiss(), index
        vectors_IW = checked_queries(vectors_IW, index.d)
        if not index.is_trained:
            index.train(vectors_IW)
        index.add(vectors_IW)

    def __len__(self) -> int:
        return int(self.index.ntotal)

    def __call__(
        self, queries_QW: Floats, k: int, *, excluded: Sequence[Ints] | None = None, allowed: Mask | None = None
    ) -> SearchResult:
        """See Search: the best rows that the index finds."""
        queries_QW = checked_queries(queries_QW, self.index.d)
        check_filters(len(queries_QW), len(self), k, excluded, allowed)
        self.faiss.omp_set_num_threads(torch.get_num_threads())
        if excluded is None and allowed is None:
            return self._found(queries_QW, k, None)
        may = np.ones(len(self), np.bool_) if allowed is None else allowed
        parts = []
        for number, query in enumerate(queries_QW):
            mine = may.copy()
            if excluded is not None:
                hidden = excluded[number]
                mine[hidden[(hidden >= 0) & (hidden < len(self))]] = False
            parts.append(self._found(query[None], k, mine))
        if not parts:
            return SearchResult(np.zeros((0, k), np.int64), np.zeros((0, k), np.float32))
        return SearchResult(*(np.concatenate(each) for each in zip(*parts, strict=True)))

    @abstractmethod
    def parameters(self, selector: Any) -> Any:
        """The parameters of a search, for FAISS."""

    def _found(self, queries_QW: Floats, k: int, may: NDArray[np.bool_] | None) -> SearchResult:
        bits = None if may is None else np.packbits(may, bitorder="little")
        selector = None if may is None else self.faiss.IDSelectorBitmap(bits)
        scores, rows = self.index.search(queries_QW, k, params=self.parameters(selector))
        return SearchResult(rows, np.where(rows < 0, -np.inf, scores).astype(np.float32))


class HNSWSearch(FaissSearch):
    """A graph. m: links per node. It is built with `ef_construction` candidates and searched with `ef_search`, >= k."""

    def __init__(self, vectors_IW: Floats, *, m: int = 32, ef_construction: int = 100, ef_search: int = 500):
        faiss = import_faiss()
        index = faiss.IndexHNSWFlat(vectors_IW.shape[1], m, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = ef_construction
        faiss.omp_set_num_threads(torch.get_num_threads())
        self.ef_search = ef_search
        super().__init__(index, vectors_IW)

    def parameters(self, selector: Any) -> Any:
        """See FaissSearch."""
        return self.faiss.SearchParametersHNSW(efSearch=self.ef_search, sel=selector)


class IVFSearch(FaissSearch):
    """Inverted lists: `num_lists` clusters by k-means, of which the nearest `num_probes` are searched."""

    def __init__(self, vectors_IW: Floats, *, num_lists: int = 1024, num_probes: int = 64):
        faiss = import_faiss()
        flat = faiss.IndexFlatIP(vectors_IW.shape[1])
        index = faiss.IndexIVFFlat(flat, vectors_IW.shape[1], num_lists, faiss.METRIC_INNER_PRODUCT)
        self._flat, self.num_probes = flat, num_probes  # FAISS keeps no reference to the quantizer
        faiss.omp_set_num_threads(torch.get_num_threads())
        super().__init__(index, vectors_IW)

    def parameters(self, selector: Any) -> Any:
        """See FaissSearch."""
        return self.faiss.SearchParametersIVF(nprobe=self.num_probes, sel=selector)


def import_faiss() -> Any:
    """The FAISS package. MissingExtraError if it is not installed."""
    try:
        import faiss
    except ImportError:
        raise MissingExtraError("HNSW and IVF need FAISS; pip install 'genrank[index]'") from None
    return faiss
