import math

import pytest
import torch
from torch.nn import functional as F

from genrank.retrieval.losses import full_softmax, info_nce, log_expected
from genrank.retrieval.training_losses import Pool, draw_places


@pytest.mark.parametrize("at_once", [1000, 14])  # all places, and two at a time
def test_full_softmax_is_cross_entropy_forward_and_backward(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genrank.retrieval.losses.LOGITS_AT_ONCE", at_once)
    torch.manual_seed(0)
    query, vector = torch.randn(5, 4, requires_grad=True), torch.randn(7, 4, requires_grad=True)
    target, weight = torch.randint(7, (5,)), torch.rand(5)
    ours = full_softmax(query, vector, target, scale=1.7)
    plain = F.cross_entropy(1.7 * query @ vector.T, target, reduction="none")
    torch.testing.assert_close(ours, plain)
    gradients = [torch.autograd.grad((weight * loss).sum(), (query, vector)) for loss in (ours, plain)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_info_nce_leaves_hidden_negatives_out() -> None:
    target, negative = torch.tensor([0.3]), torch.tensor([[1.0, 5.0, -2.0]])
    hidden = torch.tensor([[False, True, False]])
    expected = -F.log_softmax(torch.tensor([0.3, 1.0, -2.0]), 0)[0]
    torch.testing.assert_close(info_nce(target, negative, hidden_PN=hidden)[0], expected)


@pytest.mark.parametrize("thinned", [10_000, 12])
def test_corrected_for_how_often_it_is_drawn_a_pool_stands_for_the_whole_catalogue(thinned: int) -> None:
    # Σ exp(logit) over the catalogue without the target, estimated from targets of a batch and uniform draws.
    random = torch.Generator().manual_seed(0)
    torch.manual_seed(1)
    counts = torch.tensor([1, 2, 4, 40, 400])
    logit = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0])
    in_batch, uniform, estimates = 30, 10, []
    for _ in range(4000):
        drawn = torch.cat(
            [
                torch.multinomial(counts.double(), in_batch, replacement=True, generator=random),
                torch.randint(5, (uniform,), generator=random),
            ]
        )
        expected = log_expected(
            counts[drawn], total=int(counts.sum()), num_in_batch=in_batch, num_uniform=uniform, num_items=5
        )
        pool = Pool(drawn, logit[drawn, None], expected).thinned(thinned)
        assert len(pool.row_N) == min(thinned, in_batch + uniform)
        loss = info_nce(
            torch.zeros(1),
            pool.embedded_NW.T,
            hidden_PN=(pool.row_N == 4)[None],
            log_expected_N=pool.log_expected_N,
        )
        estimates.append(math.exp(float(loss)) - 1)  # the target's own term is exp(0)
    true = float(logit[:4].exp().sum())
    assert sum(estimates) / len(estimates) == pytest.approx(true, rel=0.03)


def test_places_are_drawn_from_every_sample_without_repeats() -> None:
    offsets = torch.tensor([0, 1, 1, 6, 8])
    torch.manual_seed(0)
    seen = set()
    for _ in range(50):
        places = draw_places(offsets, 2).tolist()
        assert places == sorted(set(places))
        assert [sum(begin <= place < end for place in places) for begin, end in ((0, 1), (1, 6), (6, 8))] == [1, 2, 2]
        seen |= set(places)
    assert seen == set(range(8))
