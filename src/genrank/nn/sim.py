"""SIM's exact search unit (arXiv 2006.05639): target attention over the events that the general search found.

    query    the candidate's item
    event    [item + action; time before the request]

With hard search the events are chosen beforehand, so the cost depends on their number, not on the history's length.
Soft search scores every event by (W_b e_i)·(W_a e_c) and keeps the best; the score is also added in the attention, so
that the projections are trained (the paper trains them by a separate loss).

Shapes: C candidates, B sequences, M most candidates, L most events, E events, K retrieved, W width, S of the search.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from genrank.batch import Candidates, LongHistory
from genrank.nn.attention import MASKED, padding_of
from genrank.nn.encoding import NUM_GAP_BUCKETS, gap_bucket
from genrank.nn.organization import per_token


class ExactSearch(nn.Module):
    """(C, W) each candidate's attention over the long history; zeros if no event was found."""

    def __init__(self, kind: Literal["hard", "soft"], width: int, *, num_heads: int, num_retrieved: int):
        super().__init__()
        self.kind, self.num_heads, self.num_retrieved = kind, num_heads, num_retrieved
        self.event_norm, self.candidate_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.gap_key_value = nn.Embedding(NUM_GAP_BUCKETS, 2 * width)
        nn.init.normal_(self.gap_key_value.weight, std=0.02)
        self.out = nn.Linear(width, width, bias=False)
        self.search_event = nn.Linear(width, width // 2, bias=False) if kind == "soft" else None
        self.search_candidate = nn.Linear(width, width // 2, bias=False) if kind == "soft" else None

    def forward(self, item_CW: Tensor, candidates: Candidates, event_EW: Tensor, long: LongHistory) -> Tensor:
        """`item_CW`: φ of the candidates' items; `event_EW`: e_i of `long`'s events."""
        if len(event_EW) == 0:
            return torch.zeros_like(item_CW)
        event_EW, item_CW = self.event_norm(event_EW), self.candidate_norm(item_CW)
        index_CK, seen_CK, relevance_CK = (
            self._given(long) if self.kind == "hard" else self._search(item_CW, candidates, event_EW, long)
        )
        gap_CK = gap_bucket((candidates.time[:, None] - long.time[index_CK]).clamp_min(0))
        key_value = self.key_value(event_EW)[index_CK] + self.gap_key_value(gap_CK)
        k_CKHD, v_CKHD = key_value.unflatten(-1, (2, self.num_heads, -1)).unbind(-3)
        q_CHD = self.query(item_CW).unflatten(-1, (self.num_heads, -1))
        scores_CHK = torch.einsum("chd,ckhd->chk", q_CHD, k_CKHD) / math.sqrt(q_CHD.shape[-1])
        scores_CHK = (scores_CHK + relevance_CK[:, None]).float().masked_fill(~seen_CK[:, None], MASKED)
        weights_CHK = torch.softmax(scores_CHK, dim=-1).to(v_CKHD.dtype) * seen_CK[:, None]
        found: Tensor = self.out(torch.einsum("chk,ckhd->chd", weights_CHK, v_CKHD).flatten(-2))
        return found

    def _given(self, long: LongHistory) -> tuple[Tensor, Tensor, Tensor]:
        padding = padding_of(long)
        index_CK = padding.source_BL.view(padding.num_rows, padding.width)
        return index_CK, padding.inside_BL, torch.zeros(index_CK.shape, device=index_CK.device)

    def _search(
        self, item_CW: Tensor, candidates: Candidates, event_EW: Tensor, long: LongHistory
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Each candidate's K best events of its sequence: (C, K) index, whether there is one, and its relevance."""
        assert self.search_event is not None
        assert self.search_candidate is not None
        events, wanted = padding_of(long), padding_of(candidates)
        event_BLS, wanted_BMS = events.pad(self.search_event(event_EW)), wanted.pad(self.search_candidate(item_CW))
        relevance_BML = wanted_BMS @ event_BLS.transpose(-1, -2) / math.sqrt(event_BLS.shape[-1])
        relevance_BML = relevance_BML.masked_fill(~events.inside_BL[:, None], MASKED)
        relevance_BMK, place_BMK = relevance_BML.topk(min(self.num_retrieved, events.width), dim=-1)
        relevance_CK = wanted.unpad(relevance_BMK)
        begin_C = per_token(long.offsets[:-1], candidates.offsets, len(item_CW))
        index_CK = (begin_C[:, None] + wanted.collect(place_BMK)).clamp_max(len(event_EW) - 1)
        return index_CK, relevance_CK > MASKED / 2, relevance_CK
