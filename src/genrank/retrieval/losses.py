"""InfoNCE for retrieval: the target against the catalogue, or against sampled items with a correction for how often.

A softmax over I items is estimated from the target and N sampled items: each sampled one stands for 1 / n of its kind,
where n is how often it is expected among the N (logQ correction, Bengio & Senécal 2008). The target is there with
certainty, so it is not corrected, and where it is sampled too it is not counted twice.

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

    hidden_PN: bool, negatives that are no such thing (the target itself). log_expected_N: log of how often each is
    expected among the negatives; None: no correction.
    """
    if log_expected_N is not None:
        negative_PN = negative_PN - log_expected_N
    if hidden_PN is not None:
        negative_PN = negative_PN.masked_fill(hidden_PN, -math.inf)
    return torch.logsumexp(torch.cat([target_P[:, None], negative_PN], -1), -1) - target_P


def full_softmax(query_PW: Tensor, vector_IW: Tensor, target_P: Tensor, *, scale: float) -> Tensor:
    """(P) -log softmax of the target over all items, by inner products times `scale`.

    Logits are computed a few places at a time, and again for the gradient: they never lie in memory as a whole.
    """
    loss: Tensor = _FullSoftmax.apply(query_PW, vector_IW, target_P, scale)  # type: ignore[no-untyped-call]
    return loss


LOGITS_AT_ONCE = 2**21  # 8 MiB, near what a core's cache holds; ours


class _FullSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(saved, query, vector, target, scale):  # type: ignore[no-untyped-def]
        query, vector = query.float(), vector.float()
        losses, totals = [], []
        for places in pieces(len(query), LOGITS_AT_ONCE // len(vector)):
            logits = (query[places] @ vector.T).mul_(scale)
            own = logits.gather(1, target[places, None])[:, 0]
            totals.append(torch.logsumexp(logits, -1))
            losses.append(totals[-1] - own)
        saved.save_for_backward(query, vector, target, torch.cat(totals))
        saved.scale = scale
        return torch.cat(losses)

    @staticmethod
    def backward(saved, gradient):  # type: ignore[no-untyped-def]
        query, vector, target, total = saved.saved_tensors
        d_query, d_vector = torch.empty_like(query), torch.zeros_like(vector)
        for places in pieces(len(query), LOGITS_AT_ONCE // len(vector)):
            d_logits = (query[places] @ vector.T).mul_(saved.scale).sub_(total[places, None]).exp_()
            at_target = target[places, None]
            d_logits.scatter_add_(1, at_target, -torch.ones_like(at_target, dtype=d_logits.dtype))
            d_logits.mul_(gradient[places, None] * saved.scale)
            d_query[places] = d_logits @ vector
            d_vector.addmm_(d_logits.T, query[places])
        return d_query, d_vector, None, None


def log_expected(counts_N: Tensor, *, total: int, num_in_batch: int, num_uniform: int, num_items: int) -> Tensor:
    """(N) log of how often items are expected in a pool of `num_in_batch` targets and `num_uniform` uniform draws.

    counts_N: how often each is a target in training, `total` over all. Mixed negatives: Yang et al. 2020.
    """
    frequency = counts_N.double() / max(total, 1)
    return torch.log((num_in_batch * frequency + num_uniform / num_items).clamp_min(1e-12)).float()
