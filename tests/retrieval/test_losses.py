import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from genrank.batch import PackedBatch, map_arrays
from genrank.retrieval.item_vectors import ItemVectors
from genrank.retrieval.losses import full_softmax, info_nce, log_expected
from genrank.retrieval.retriever import Retriever
from genrank.retrieval.retriever_config import RetrieverConfig
from genrank.retrieval.training_losses import NegativePool, RetrievalLosses, draw_places
from genrank.runs.retrieval_ranks import items_of
from worlds import SPEC, builder, timelines


@pytest.mark.parametrize("kept", [1000, 0])
@pytest.mark.parametrize("at_once", [1000, 10])  # all items, and two at a time
def test_full_softmax_is_cross_entropy_forward_and_backward(
    at_once: int, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("genrank.retrieval.losses.LOGITS_AT_ONCE", at_once)
    monkeypatch.setattr("genrank.retrieval.losses.FEWEST_AT_ONCE", 1)
    monkeypatch.setattr("genrank.retrieval.losses.KEPT", kept)
    torch.manual_seed(0)
    query, vector = torch.randn(5, 4, requires_grad=True), torch.randn(7, 4, requires_grad=True)
    target, weight = torch.randint(7, (5,)), torch.rand(5)
    ours = full_softmax(query, vector, target, scale=1.7)
    plain = F.cross_entropy(1.7 * query @ vector.T, target, reduction="none")
    torch.testing.assert_close(ours, plain)
    gradients = [torch.autograd.grad((weight * loss).sum(), (query, vector)) for loss in (ours, plain)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_full_softmax_keeps_its_precision_where_the_rest_is_bfloat16() -> None:
    torch.manual_seed(0)
    query, vector = torch.randn(5, 4, requires_grad=True), torch.randn(7, 4, requires_grad=True)
    target = torch.randint(7, (5,))
    plain = full_softmax(query, vector, target, scale=1.7)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = full_softmax(query, vector, target, scale=1.7)
    assert torch.equal(mixed, plain)
    for one, other in zip(*(torch.autograd.grad(loss.sum(), (query, vector)) for loss in (mixed, plain)), strict=True):
        assert torch.equal(one, other)


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
        pool = NegativePool(drawn, logit[drawn, None], expected).thinned(thinned)
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


CONFIG = RetrieverConfig(
    width=16,
    num_heads=2,
    num_blocks=2,
    feedforward=16,
    embedding_dim=6,
    dropout=0.0,
    id_dropout=0.0,
    places=100,
    hard_from=5,
    num_hard=3,
)


def learning(config: RetrieverConfig, *, highest_item: int = 1000) -> tuple[RetrievalLosses, PackedBatch]:
    """The losses of a small world's retriever, and a batch of all its users."""
    world = timelines(lengths=[31, 6, 1, 17], seed=3)
    world = replace(world, item=world.item.clip(1, highest_item))
    b = builder(world, max_history=12, search=config.search)
    torch.manual_seed(0)
    model = Retriever(config, SPEC, max_history=12)
    items = replace(b.items, train_count=np.bincount(world.item, minlength=31))
    catalogue = ItemVectors.of(items, items.train_count, torch.device("cpu"))
    losses = RetrievalLosses(model, catalogue, partial(items_of, b))
    batch: PackedBatch = map_arrays(b.batch(b.samples()), torch.from_numpy)
    return losses, batch


@pytest.mark.parametrize("full_softmax", [0, 1000])
def test_the_ranker_learns_from_targets_among_the_best_of_the_query(full_softmax: int) -> None:
    losses, batch = learning(replace(CONFIG, full_softmax=full_softmax))
    few, every = len(losses(batch)["ranker"]), len(batch.candidates.item)
    assert 0 < few < every
    losses, batch = learning(replace(CONFIG, full_softmax=full_softmax, hard_from=1000))
    assert len(losses(batch)["ranker"]) == every


def test_a_target_that_the_pool_has_too_is_no_negative_of_itself() -> None:
    losses, batch = learning(replace(CONFIG, full_softmax=0, num_hard=1000, hard_from=1000), highest_item=1)
    for loss in losses(batch).values():
        torch.testing.assert_close(loss, torch.zeros_like(loss))


def test_the_loss_of_the_ranker_teaches_the_ranker_and_not_the_query() -> None:
    losses, batch = learning(CONFIG)
    with torch.no_grad():
        losses.model.ranker.head[-1].weight.normal_()  # at its beginning, nothing passes
    losses(batch)["ranker"].sum().backward()
    moved = {name: _size(p.grad) for name, p in losses.model.named_parameters() if p.grad is not None}
    assert moved["ranker.key_value.0.weight"] > 0
    assert all(_size(p.grad) == 0 for p in (*losses.model.blocks.parameters(), *losses.model.query_norm.parameters()))
    assert any(size > 0 for name, size in moved.items() if name.startswith("items."))


def _size(gradient: Tensor | None) -> float:
    return 0.0 if gradient is None else float(gradient.to_dense().abs().max())
