"""InfoNCE for retrieval: the target against the catalogue, or against sampled items with a correction of frequencies.

A softmax over I items is estimated from the target and N sampled items: each sampled item is weighted by 1 / n, where n
is how often it is expected among the N (logQ correction, Bengio & Senécal 2008). The target is always included, so it
is not corrected, and if it is sampled too it is not counted twice.

Shapes: P places, N negatives.
"""

import math

import torch
from torch import Tensor

from genrank.retrieval.pieces import pieces


def info_nce(
    target_P: Tensor, negative_PN: Tensor, *, hidden_PN: Tensor | None = None, log_expected_N: Tensor | None = None
) -> Tensor:
    """(P) -log softmax of the target's logit against the negatives'.

    hidden_PN: bool, entries that are not negatives (the target itself). log_expected_N: log of how often each is
    expected among the negatives; None: no correction.
    """
    if log_expected_N is not None:
        negative_PN = negative_PN - log_expected_N
    if hidden_PN is not None:
        negative_PN = negative_PN.masked_fill(hidden_PN, -math.inf)
    return torch.logsumexp(torch.cat([target_P[:, None], negative_PN], -1), -1) - target_P


def full_softmax(query_PW: Tensor, vector_IW: Tensor, target_P: Tensor, *, scale: float) -> Tensor:
    """(P) -log softmax of the target over all items, by inner products times `scale`.

    It is computed in parts that fit into a core's cache. Up to KEPT exponentials are kept for the gradient; if there
    are more, all are computed again.
    """
    with torch.autocast(query_PW.device.type, enabled=False):
        loss: Tensor = _FullSoftmax.apply(query_PW, vector_IW, target_P, scale)  # type: ignore[no-untyped-call]
    return loss


LOGITS_AT_ONCE = 2**19  # 2 MiB, measured; also measured: with kept exponentials it takes 0.6 times as long
FEWEST_AT_ONCE = 128
KEPT = 2**26  # 256 MiB


class _FullSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(saved, query, vector, target, scale):  # type: ignore[no-untyped-def]
        query, vector = query.float() * scale, vector.float()
        saved.parts = pieces(len(vector), max(LOGITS_AT_ONCE // max(len(query), 1), FEWEST_AT_ONCE))
        highests, sums, exponentials = [], [], []
        for items in saved.parts:
            logits = query @ vector[items].T
            highests.append(logits.amax(1))
            sums.append(logits.sub_(highests[-1][:, None]).exp_().sum(1))
            if len(query) * len(vector) <= KEPT:
                exponentials.append(logits)
        highest = torch.stack(highests)
        total = torch.logsumexp(highest + torch.stack(sums).log(), 0)
        saved.exponentials, saved.scale = exponentials, scale
        saved.save_for_backward(query, vector, target, total, highest)
        return total - (query * vector[target]).sum(1)

    @staticmethod
    def backward(saved, gradient):  # type: ignore[no-untyped-def]
        query, vector, target, total, highest = saved.saved_tensors
        weight = gradient[:, None]
        d_query, d_vector = -weight * vector[target], torch.empty_like(vector)
        for part, items in enumerate(saved.parts):
            if saved.exponentials:
                exponential = saved.exponentials[part]
            else:
                exponential = (query @ vector[items].T).sub_(highest[part][:, None]).exp_()
            share = weight * (highest[part] - total).exp()[:, None]
            d_query.addcmul_(exponential @ vector[items], share)
            torch.mm(exponential.T, query * share, out=d_vector[items])
        d_vector.index_add_(0, target, -weight * query)
        return d_query * saved.scale, d_vector, None, None


def log_expected(counts_N: Tensor, *, total: int, num_in_batch: int, num_uniform: int, num_items: int) -> Tensor:
    """(N) log of how often items are expected in a pool of `num_in_batch` targets and `num_uniform` uniform draws.

    counts_N: how often each is a target in training, `total` over all. Mixed negatives: Yang et al. 2020.
    """
    frequency = counts_N.double() / max(total, 1)
    return torch.log((num_in_batch * frequency + num_uniform / num_items).clamp_min(1e-12)).float()
