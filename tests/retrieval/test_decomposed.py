"""Attention from candidates to history equals masked attention over both, and queries don't know of candidates."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from genrank.batch import PackedBatch, map_arrays
from genrank.bench.decomposed import FullAttention, full_bias
from genrank.data.timelines import Timelines
from genrank.nn.attention import Queries, Tokens
from genrank.nn.blocks import KeysValues
from genrank.nn.kv_cache import KVCache
from genrank.retrieval.retriever import Retriever
from genrank.retrieval.retriever_config import RetrieverConfig
from genrank.retrieval.training_losses import draw_places
from genrank.schema import FeatureSpec
from worlds import SPEC, builder, timelines

WORLD = timelines(lengths=[31, 0, 6, 1, 17], seed=3)
MAX_HISTORY = 12
CONFIG = RetrieverConfig(
    width=16, num_heads=2, num_blocks=3, feedforward=24, embedding_dim=6, dropout=0.0, id_dropout=0.0, attention="plain"
)


def batch_of(world: Timelines = WORLD, *, wide: bool = True) -> PackedBatch:
    b = builder(world, max_history=MAX_HISTORY, search=CONFIG.search)
    batch = map_arrays(b.batch(b.samples()), torch.from_numpy)
    return map_arrays(batch, lambda x: x.double() if wide and x.is_floating_point() else x)


def retriever(config: RetrieverConfig = CONFIG, kind: type[Retriever] = Retriever) -> Retriever:
    torch.manual_seed(0)
    return kind(config, SPEC, max_history=MAX_HISTORY).double()


class FullRetriever(Retriever):
    """History, query tokens and candidates go through every block together, (L + B)², under one mask."""

    def _through_history(self, x_TW: Tensor, queries: Queries, tokens: Tokens) -> tuple[KeysValues, ...]:
        return (KeysValues(x_TW, x_TW),)  # as they enter; what follows needs no keys of its own

    def _through_blocks(self, x_NW: Tensor, state: KVCache, queries: Queries) -> Tensor:
        x_TW = state.keys_values[0].k_THD
        attention = FullAttention(full_bias(state.context, queries, self.scoring.bias))
        x_XW = torch.cat([x_TW, x_NW])
        for block in self.blocks:
            x_XW, _ = block(x_XW, attention, None)
        return x_XW[len(x_TW) :]


def outcomes(model: Retriever, batch: PackedBatch) -> tuple[list[Tensor], list[Tensor]]:
    """Queries and auxiliary scores, and the gradients of a function of both."""
    torch.manual_seed(1)
    places = draw_places(batch.candidates.offsets, 2)
    encoded = model.encode(batch)
    queries = model.queries(encoded, batch)
    items = encoded.items_IW[torch.randint(len(encoded.items_IW), (len(places), 7))]
    scores = model.auxiliary_scores(encoded, batch, places, items)
    model.zero_grad()
    (queries.sin().sum() + scores.square().sum()).backward()
    used = {name: p.grad.to_dense() for name, p in model.named_parameters() if p.grad is not None}
    assert any(name.startswith("blocks.2") for name in used)
    return [queries, scores], list(used.values())


def test_decomposed_attention_equals_masked_full_attention_forward_and_backward() -> None:
    batch = batch_of()
    ours, theirs = outcomes(retriever(), batch), outcomes(retriever(kind=FullRetriever), batch)
    for mine, full in zip(ours, theirs, strict=True):
        assert len(mine) == len(full)
        for one, other in zip(mine, full, strict=True):
            assert one.abs().max() > 0
            torch.testing.assert_close(one, other, atol=1e-10, rtol=0)


def test_masked_full_attention_is_sensitive_to_its_mask() -> None:
    """The comparison would notice: with the mask left out, results differ."""

    class Unmasked(FullRetriever):
        def _through_blocks(self, x_NW: Tensor, state: KVCache, queries: Queries) -> Tensor:
            free = replace(queries, prefix=torch.zeros_like(queries.prefix))
            return super()._through_blocks(x_NW, state, free)

    batch = batch_of()
    (ours, *_), (theirs, *_) = outcomes(retriever(), batch)[0], outcomes(retriever(kind=Unmasked), batch)[0]
    assert (ours - theirs).abs().max() > 1e-3


@pytest.mark.parametrize("attention", ["plain", "native"])
def test_queries_are_bit_equal_without_the_auxiliary_and_the_ranker(attention: str) -> None:
    whole = retriever(replace(CONFIG, attention=attention)).float().eval()
    bare = retriever(replace(CONFIG, attention=attention, auxiliary=0, ranker=0)).float().eval()
    bare.load_state_dict(whole.state_dict(), strict=False)
    batch = batch_of(wide=False)
    encoded = whole.encode(batch)
    places = torch.arange(len(batch.candidates.prefix))
    items = encoded.items_IW[torch.randint(len(encoded.items_IW), (len(places), 9))]
    whole.auxiliary_scores(encoded, batch, places, items)  # candidates pass the same blocks; nothing may remain of them
    one, other = whole.queries(encoded, batch), bare.queries(bare.encode(batch), batch)
    assert torch.equal(one, other)


def test_a_place_knows_nothing_of_its_own_request_or_of_later_ones() -> None:
    model, batch = retriever().eval(), batch_of()
    queries = model.queries(model.encode(batch), batch)
    changed = replace(WORLD, item=WORLD.item.copy())
    b = builder(WORLD, max_history=MAX_HISTORY)
    row = int(np.flatnonzero(b.visible_end > 5)[0])
    changed.item[row:] = 1 + changed.item[row:] % 30
    again = batch_of(changed)
    new = model.queries(model.encode(again), again)
    before = (batch.candidates.exposure <= row) & (torch.from_numpy(b.visible_end)[batch.candidates.exposure] <= row)
    same_user = batch.candidates.exposure < 31
    unaffected = before & same_user
    assert unaffected.sum() > 3
    torch.testing.assert_close(queries[unaffected], new[unaffected], atol=1e-12, rtol=0)
    affected = same_user & (torch.from_numpy(b.visible_end)[batch.candidates.exposure] > row)
    assert (queries[affected] - new[affected]).abs().max() > 1e-6


@pytest.mark.parametrize("user_id", [False, True])
def test_users_have_vectors_of_their_own_only_if_asked_for(user_id: bool) -> None:
    spec = replace(
        SPEC, features=(*SPEC.features, FeatureSpec(name="user_id", owner="user", kind="categorical", size=9))
    )
    torch.manual_seed(0)
    model = Retriever(replace(CONFIG, user_id=user_id), spec, max_history=MAX_HISTORY).double().eval()
    batch = batch_of()
    names = torch.arange(len(batch.users["age"])) + 1
    named, renamed = (replace(batch, users={**batch.users, "user_id": ids}) for ids in (names, names.flip(0)))
    assert torch.equal(*(model.queries(model.encode(each), each) for each in (named, renamed))) != user_id
