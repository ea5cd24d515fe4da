"""Flat search: the items of largest inner product with a query, found by scoring all of them.

There is no tree or graph, so nothing to build or tune, and filters neither cost time nor lose items. `float32` is
exact. `int8` and `bfloat16` score all items in that precision, and somewhat more than the best k again in float32. So
scores are exact, and only an item with a far too low first score can be missed. int8 runs in C++ if there is a compiler
(nn/native/search.cpp).

Shapes: Q queries, I items, W width, K results.
"""

import ctypes
from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genrank.nn.native.library import load
from genrank.retrieval.pieces import pieces

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]
Precision = Literal["float32", "bfloat16", "int8"]

BLOCK = 32  # items of a block of codes, as in search.cpp
SCORES_AT_ONCE = 2**22
QUERIES_AT_ONCE = 256


class SearchResult(NamedTuple):
    """(Q, K) rows and inner products, best first, of equal ones the lower row first; -1 and -inf if there are fewer."""

    rows: Ints
    scores: Floats


class Search(Protocol):
    """A search among given vectors."""

    def __call__(
        self, queries_QW: Floats, k: int, *, excluded: Sequence[Ints] | None = None, allowed: Mask | None = None
    ) -> SearchResult:
        """The best k. excluded: rows that may not be found, per query. allowed: (I), false: may not be found.

        ValueError for queries of another width or that are not finite, and for filters of another size.
        """


class FlatSearch:
    """Scores every vector. Safe to use from several threads."""

    def __init__(self, vectors_IW: Floats, *, precision: Precision = "int8", device: str = "cpu"):
        """vectors_IW: at least one; ValueError if one is not finite. device: on others than cpu PyTorch searches."""
        self.vectors_IW = np.ascontiguousarray(vectors_IW, np.float32)
        if self.vectors_IW.ndim != 2 or not self.vectors_IW.size:
            raise ValueError(
                f"vectors have the shape {self.vectors_IW.shape}; at least one of width at least 1 is needed"
            )
        bad = np.flatnonzero(~np.isfinite(self.vectors_IW).all(1))
        if len(bad):
            raise ValueError(f"vector {bad[0]} is not finite, the first of {len(bad)}; leave these items out")
        self.precision, self.device = precision, torch.device(device)
        self._native = (
            _NativeSearch(self.vectors_IW) if precision == "int8" and self.device.type == "cpu" and load() else None
        )
        self._first: Tensor | None = None  # the vectors of the first search, in lower precision
        self._scale_I: Tensor | None = None
        if precision == "bfloat16":
            self._first = torch.from_numpy(self.vectors_IW).to(self.device, torch.bfloat16)
        elif precision == "int8" and self._native is None:
            top = np.abs(self.vectors_IW).max(1)
            codes = np.rint(self.vectors_IW * _over(127, top)[:, None]).astype(np.int8)
            self._first = torch.from_numpy(codes).to(self.device)
            self._scale_I = torch.from_numpy(top / 127).to(self.device)
        self._exact = torch.from_numpy(self.vectors_IW).to(self.device)

    def __len__(self) -> int:
        return len(self.vectors_IW)

    def __call__(
        self, queries_QW: Floats, k: int, *, excluded: Sequence[Ints] | None = None, allowed: Mask | None = None
    ) -> SearchResult:
        """See Search."""
        queries_QW = checked_queries(queries_QW, self.vectors_IW.shape[1])
        check_filters(len(queries_QW), len(self), k, excluded, allowed)
        parts = []
        for part in pieces(len(queries_QW), QUERIES_AT_ONCE):
            hidden = None if excluded is None else excluded[part]
            if self._native is not None:
                parts.append(self._native(queries_QW[part], k, hidden, allowed))
            else:
                parts.append(self._by_torch(queries_QW[part], k, hidden, allowed))
        if not parts:
            return SearchResult(np.zeros((0, k), np.int64), np.zeros((0, k), np.float32))
        return SearchResult(*(np.concatenate(each) for each in zip(*parts, strict=True)))

    @torch.no_grad()
    def _by_torch(self, queries: Floats, k: int, excluded: Sequence[Ints] | None, allowed: Mask | None) -> SearchResult:
        query_QW = torch.from_numpy(queries).to(self.device)
        may = None if allowed is None else torch.from_numpy(allowed).to(self.device)
        most = min(k if self._first is None else num_kept(k), len(self))
        ties = self.precision != "bfloat16"  # in bfloat16 many scores are equal by rounding
        rows, scores = [], []
        for part in pieces(len(self), SCORES_AT_ONCE // len(queries)):
            score_QI = self._first_scores(query_QW, part)
            if may is not None:
                score_QI.masked_fill_(~may[part], -torch.inf)
            for query, hidden in enumerate(excluded or ()):
                inside = hidden[(hidden >= part.start) & (hidden < part.stop)] - part.start
                score_QI[query, torch.from_numpy(inside).to(self.device)] = -torch.inf
            best, place = _best(score_QI, most, ties)
            rows.append(place + part.start)
            scores.append(best)
        score_QM, place_QM = _best(torch.cat(scores, 1), most, ties)
        row_QM = torch.cat(rows, 1).gather(1, place_QM)
        if self._first is not None:
            again_QM = torch.einsum("qw,qmw->qm", query_QW, self._exact[row_QM])
            score_QM = torch.where(score_QM == -torch.inf, score_QM, again_QM)
        return _ordered(row_QM.cpu().numpy(), score_QM.cpu().numpy(), k)

    def _first_scores(self, query_QW: Tensor, part: slice) -> Tensor:
        """(Q, items of the part) scores of the first search; those of int8 up to a factor per query."""
        if self._first is None:
            return query_QW @ self._exact[part].T
        if self._scale_I is None:
            return (query_QW.bfloat16() @ self._first[part].T).float()
        top_Q1 = query_QW.abs().amax(-1, keepdim=True)
        code_QW = torch.where(top_Q1 > 0, query_QW * (127 / top_Q1), 0.0).round()
        return (code_QW @ self._first[part].float().T) * self._scale_I[part]


def _best(score_QN: Tensor, most: int, ties: bool) -> tuple[Tensor, Tensor]:
    """The best `most` scores and their positions, in order of position. ties: of equal ones the first; else any."""
    best = score_QN.topk(min(most + 1, score_QN.shape[1]), -1)
    place_QM = best.indices[:, :most]
    if ties and best.values.shape[1] > most:
        last_Q = best.values[:, most]
        tied_Q = (last_Q == best.values[:, most - 1]) & (last_Q > -torch.inf)
        for query in tied_Q.nonzero()[:, 0].tolist():
            place_QM[query] = score_QN[query].sort(descending=True, stable=True).indices[:most]
    place_QM = place_QM.sort(-1).values
    return score_QN.gather(1, place_QM), place_QM


class _SearchCall(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("items", "dim", "num_queries", "most", "k")),
        *(
            (name, ctypes.c_void_p)
            for name in (
                "codes", "scales", "vectors", "queries", "allowed", "excluded", "excluded_offsets", "rows", "scores"
            )
        ),
        ("num_threads", ctypes.c_int64),
    )  # fmt: skip


class _NativeSearch:
    """int8 search in C++. Codes take a quarter of the vectors' memory."""

    def __init__(self, vectors_IW: Floats):
        library = load()
        assert library is not None
        self.library, self.vectors_IW = library, vectors_IW
        num_items, dim = vectors_IW.shape
        room = -(-num_items // BLOCK) * BLOCK
        self.codes = np.zeros(room * (-(-dim // 4) * 4), np.uint8)
        self.scales = np.zeros(room, np.float32)
        library.search_encode(
            _pointer(vectors_IW),
            ctypes.c_int64(num_items),
            ctypes.c_int64(dim),
            _pointer(self.codes),
            _pointer(self.scales),
            ctypes.c_int64(torch.get_num_threads()),
        )

    def __call__(self, queries: Floats, k: int, excluded: Sequence[Ints] | None, allowed: Mask | None) -> SearchResult:
        rows = np.full((len(queries), k), -1, np.int64)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        hidden = offsets = None
        if excluded is not None:
            hidden = np.concatenate([np.zeros(0, np.int64), *(np.sort(each) for each in excluded)]).astype(np.int64)
            offsets = np.concatenate([[0], np.cumsum([len(each) for each in excluded])]).astype(np.int64)
        may = None if allowed is None else np.ascontiguousarray(allowed, np.bool_)
        call = _SearchCall(
            *self.vectors_IW.shape,
            len(queries),
            num_kept(k),
            k,
            *map(_pointer, (self.codes, self.scales, self.vectors_IW, queries, may, hidden, offsets, rows, scores)),
            torch.get_num_threads(),
        )
        self.library.search_int8(ctypes.byref(call))
        return SearchResult(rows, scores)


def num_kept(k: int) -> int:
    """How many items of the first search are scored again for k results; ours, measured: docs/retrieval.md."""
    return k + max(k // 4, 32)


def checked_queries(queries_QW: Floats, width: int) -> Floats:
    """The queries as contiguous float32. ValueError if they have another width or are not finite."""
    queries_QW = np.ascontiguousarray(queries_QW, np.float32)
    if queries_QW.ndim != 2 or queries_QW.shape[1] != width:
        raise ValueError(f"queries have the shape {queries_QW.shape}; the index holds vectors of width {width}")
    bad = np.flatnonzero(~np.isfinite(queries_QW).all(1))
    if len(bad):
        raise ValueError(f"query {bad[0]} is not finite")
    return queries_QW


def check_filters(
    num_queries: int, num_items: int, k: int, excluded: Sequence[Ints] | None, allowed: Mask | None
) -> None:
    """ValueError for arguments that a search can't take."""
    if k < 1:
        raise ValueError(f"k is {k}; it must be at least 1")
    if excluded is not None and len(excluded) != num_queries:
        raise ValueError(f"excluded holds rows for {len(excluded)} queries; there are {num_queries}")
    if allowed is not None and allowed.shape != (num_items,):
        raise ValueError(f"allowed has the shape {allowed.shape}; ({num_items},) is needed, one for each item")


def _ordered(rows: Ints, scores: Floats, k: int) -> SearchResult:
    """The best k in order, filled up to k."""
    order = np.lexsort((rows, -scores))[:, :k]
    rows, scores = np.take_along_axis(rows, order, 1), np.take_along_axis(scores, order, 1)
    rows = np.where(scores == -np.inf, -1, rows)
    fill = ((0, 0), (0, k - rows.shape[1]))
    return SearchResult(np.pad(rows, fill, constant_values=-1), np.pad(scores, fill, constant_values=-np.inf))


def _over(numerator: float, values: Floats) -> Floats:
    return np.divide(numerator, values, out=np.zeros_like(values), where=values > 0)


def _pointer(array: NDArray[np.generic] | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if array is None else array.ctypes.data)
