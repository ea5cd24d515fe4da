"""History as one vector: sums over the events that a candidate sees, and DIN's target attention.

Shapes: B sequences, T history events, C candidates, L longest history, M most candidates, W width, G hidden units.
"""

import torch
from torch import Tensor, nn

from genrank.batch import Candidates, History
from genrank.nn.attention import look_up, padding_of
from genrank.nn.encoding import NUM_GAP_BUCKETS, gap_bucket
from genrank.nn.organization import per_token


def prefix_sums(values_TW: Tensor, offsets: Tensor, candidates: Candidates) -> Tensor:
    """(C, W) the sum of the first `prefix` events' values of each candidate's sequence."""
    begin_C = per_token(offsets[:-1], candidates.offsets, len(candidates.prefix))
    return RangeSums(values_TW)(begin_C, begin_C + candidates.prefix)


class RangeSums:
    """Sums of (T, W) values over any ranges of rows, from running sums in float64."""

    def __init__(self, values_TW: Tensor):
        self.dtype = values_TW.dtype
        nothing = values_TW.new_zeros(1, values_TW.shape[1], dtype=torch.float64)
        self.total = torch.cat([nothing, values_TW.double().cumsum(0)])

    def __call__(self, begin_C: Tensor, end_C: Tensor) -> Tensor:
        """(C, W) the sums of rows begin to end, exclusive."""
        return (self.total[end_C] - self.total[begin_C]).to(self.dtype)


class MeanPooling(nn.Module):
    """Means of the items seen, one over all and one over the positives of each binary task, with their counts."""

    def __init__(self, tasks: tuple[str, ...], width: int):
        super().__init__()
        self.tasks = tasks
        self.out = nn.Linear((1 + len(tasks)) * (width + 1), width)

    def forward(self, item_TW: Tensor, history: History, candidates: Candidates) -> Tensor:
        """(C, W)."""
        chosen = [item_TW.new_ones(len(item_TW))]
        chosen += [(history.actions[task] == 2).to(item_TW.dtype) for task in self.tasks]
        pools = []
        for weight_T in chosen:
            values = torch.cat([item_TW, torch.ones_like(item_TW[:, :1])], dim=1) * weight_T[:, None]
            sums_CW = prefix_sums(values, history.offsets, candidates)
            pools += [sums_CW[:, :-1] / sums_CW[:, -1:].clamp_min(1), torch.log1p(sums_CW[:, -1:].clamp_min(0))]
        pooled: Tensor = self.out(torch.cat(pools, dim=1))
        return pooled


class TargetAttention(nn.Module):
    """DIN (arXiv 1706.06978): Σ_i a(e_i, e_c) e_i, a = MLP[e_i, e_i ⊙ e_c, e_i - e_c, e_c], weights not normalised.

    The MLP's first layer is linear in its four inputs, so the terms in e_i and e_c alone are computed once per token,
    and the product's term is one matrix product per candidate: no vector per pair is ever built. Beyond the paper, the
    time between event and request adds a learned scalar to each weight, as production rankers do.
    """

    def __init__(self, width: int, *, hidden: int):
        super().__init__()
        self.event = nn.Linear(width, hidden)
        self.candidate = nn.Linear(width, hidden, bias=False)
        self.product = nn.Parameter(torch.randn(hidden, width) * width**-0.5)
        self.activation = nn.GELU()
        self.weight = nn.Linear(hidden, 1)
        self.gap = nn.Parameter(torch.zeros(NUM_GAP_BUCKETS))
        self.norm = nn.LayerNorm(width)

    def forward(self, event_TW: Tensor, item_CW: Tensor, history: History, candidates: Candidates) -> Tensor:
        """(C, W)."""
        events, wanted = padding_of(history), padding_of(candidates)
        if events.width == 0 or wanted.width == 0:
            empty: Tensor = self.norm(0 * item_CW)
            return empty
        event_BLW, item_BMW = events.pad(event_TW), wanted.pad(item_CW)
        hidden_BMGL = torch.einsum("bmw,gw,blw->bmgl", item_BMW, self.product, event_BLW)
        hidden_BMGL = hidden_BMGL + events.pad(self.event(event_TW)).transpose(1, 2)[:, None]
        hidden_BMGL = hidden_BMGL + wanted.pad(self.candidate(item_CW))[..., None]
        weights_BML = (
            torch.einsum("bmgl,g->bml", self.activation(hidden_BMGL), self.weight.weight[0]) + self.weight.bias
        )
        seconds_BML = wanted.scatter(candidates.time)[..., None] - events.scatter(history.time)[:, None]
        weights_BML = weights_BML + look_up(self.gap, gap_bucket(seconds_BML.clamp_min(0)))
        seen_BML = torch.arange(events.width, device=item_CW.device) < wanted.scatter(candidates.prefix)[..., None]
        pooled_BMW = torch.where(seen_BML, weights_BML, 0.0) @ event_BLW
        pooled: Tensor = self.norm(wanted.unpad(pooled_BMW))
        return pooled
