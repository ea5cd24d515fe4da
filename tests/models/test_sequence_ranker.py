from typing import Any

import numpy as np
import pytest
import torch

from genrank.batch import PackedBatch, map_arrays
from genrank.config import build, to_dict
from genrank.errors import ConfigError
from genrank.models.pointwise_ranker import PointwiseRankerConfig
from genrank.models.ranker import Ranker, build_ranker
from genrank.models.sequence_config import SequenceRankerConfig
from worlds import SPEC, builder, timelines
from zoo import HSTU, config, ranker, with_copies

MAX_HISTORY = 10
WORLD = timelines(lengths=[37, 0, 5, 1, 18], seed=5)


def batch_of(lengths: list[int] | None = None, **settings: Any) -> PackedBatch:
    b = builder(WORLD if lengths is None else timelines(lengths=lengths, seed=1), max_history=MAX_HISTORY, **settings)
    return map_arrays(b.batch(b.samples()), torch.from_numpy)


def summed_loss(model: Ranker, batch: PackedBatch) -> torch.Tensor:
    return sum(loss.sum() for loss in model.loss(model(batch), batch).values())


def test_embedding_gradients_are_sparse_and_touch_looked_up_rows_only() -> None:
    model = build_ranker(SequenceRankerConfig(id_dropout=0.0), SPEC, max_history=MAX_HISTORY)
    batch = batch_of([3])
    summed_loss(model, batch).backward()
    gradient = model.inputs.items.tables["of_item_id"].weight.grad
    assert gradient.is_sparse
    assert set(gradient.coalesce().indices()[0].tolist()) == set(batch.items["item_id"].tolist())


@pytest.mark.parametrize("name", ["hstu", "hstu-user-prefix", "hstu-one-block", "hstu-sim", "hstu-scaled-input"])
def test_predicting_at_item_tokens_equals_predicting_at_copies(name: str) -> None:
    search = ranker(name, SPEC, max_history=MAX_HISTORY).config.search
    batch = batch_of(search=search)
    in_place = batch.candidates.in_history >= 0
    assert in_place.sum() > 10  # most exposures are history to a later request
    assert not in_place.all()
    tokens = ranker(name, SPEC, max_history=MAX_HISTORY)
    copies = ranker(name, SPEC, max_history=MAX_HISTORY)
    copies.config = with_copies(config(name))
    for task, logits in tokens(batch).items():
        torch.testing.assert_close(copies(batch)[task], logits, atol=1e-5, rtol=1e-4)
    gradients = []
    for model in (tokens, copies):
        summed_loss(model, batch).backward()
        gradients.append([p.grad.to_dense() for p in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("settings", "deviation"),
    [
        ({"organization": "interleaved"}, 0.02),
        ({"organization": "action"}, (3 * 256) ** -0.5),  # uniform within ±1/√W
        ({"organization": "interleaved", "start": "uniform"}, (3 * 256) ** -0.5),
        ({"organization": "action", "start": "official"}, 0.02),
    ],
)
def test_hstus_first_weights_are_official_with_interleaved_tokens_and_pytorchs_elsewhere(
    settings: dict[str, Any], deviation: float
) -> None:
    torch.manual_seed(0)
    config = SequenceRankerConfig(block="hstu", encoding="hstu", width=256, **settings)
    block = build_ranker(config, SPEC, max_history=4).blocks[0]
    for layer in (block.gate_query, block.key_value):
        assert abs(layer.weight.std().item() / deviation - 1) < 0.02
    xavier = (6 / 512) ** 0.5
    bound = xavier if deviation == 0.02 else 256**-0.5
    assert 0.99 * bound < block.out.weight.abs().max() <= bound


def test_the_scaled_input_is_the_vector_times_the_root_of_the_width_plus_its_position() -> None:
    model = ranker("scaled-input", SPEC, max_history=MAX_HISTORY)
    place = torch.tensor([0, 3, MAX_HISTORY + 1])
    x = torch.randn(3, 16)
    table = model.scaled_input.position.weight
    torch.testing.assert_close(model._input(x, place), 4 * x + table[place])
    assert abs(table.std().item() * 4 - 1) < 0.2


def test_no_copy_is_made_where_history_holds_every_exposure(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ranker("hstu", SPEC, max_history=MAX_HISTORY)
    seen: list[int] = []
    first = model.blocks[0]
    first.register_forward_pre_hook(lambda _, arguments: seen.append(len(arguments[0])))
    batch = batch_of()
    model(batch)
    context, copies = seen
    assert context == 2 * len(batch.history.item)
    assert copies == int((batch.candidates.in_history < 0).sum())


def test_an_item_tokens_request_is_hidden_from_it_and_its_action_is_shown_to_later_ones() -> None:
    history = batch_of().history
    assert (history.as_candidate.prefix <= history.position).all()
    assert (history.as_candidate.time <= history.time).all()
    assert (history.next_time >= history.time).all()


@pytest.mark.parametrize("name", ["genrank", "hstu", "din"])
def test_loss_on_history_predicts_every_exposure_of_the_window_once_per_sample(name: str) -> None:
    b = builder(WORLD, max_history=MAX_HISTORY, grouping="request", loss_on_history=True)
    plain = b.samples()
    both = b.with_history(plain)
    assert len(both) == len(plain)
    assert len(both.candidates) > 2 * len(plain.candidates)
    batch = map_arrays(b.batch(both), torch.from_numpy)
    sequence = np.repeat(np.arange(len(both)), both.num_candidates)
    assert len(set(zip(sequence.tolist(), batch.candidates.exposure.tolist(), strict=True))) == len(both.candidates)
    model = ranker(name, SPEC, max_history=MAX_HISTORY)
    with torch.no_grad():
        logits = model(batch)["click"][:, 0]
    alone = b.batch(plain)
    with torch.no_grad():
        expected = model(map_arrays(alone, torch.from_numpy))["click"][:, 0]
    own = np.isin(
        both.candidates + sequence * 10**6,
        plain.candidates + 10**6 * np.repeat(np.arange(len(plain)), plain.num_candidates),
    )
    torch.testing.assert_close(logits[torch.from_numpy(own)], expected, atol=2e-5, rtol=1e-4)


def test_labels_once_shows_every_label_in_one_sample_most_of_them_as_history() -> None:
    config = {"max_history": MAX_HISTORY, "grouping": "request", "loss_on_history": True}
    every, once = (builder(WORLD, **config, labels_once=once) for once in (False, True))
    plain = once.samples()
    shown, all_shown = once.with_history(plain), every.with_history(plain)
    assert sorted(shown.candidates) == sorted(set(all_shown.candidates))
    assert len(all_shown.candidates) > 2 * len(shown.candidates)
    assert (shown.num_candidates > 0).all()
    own = {
        (user, time, row)
        for user, time, begin, end in zip(
            plain.user, plain.time, plain.candidate_offsets, plain.candidate_offsets[1:], strict=False
        )
        for row in plain.candidates[begin:end]
    }
    sample = np.repeat(np.arange(len(shown)), shown.num_candidates)
    in_own = [(shown.user[s], shown.time[s], row) in own for s, row in zip(sample, shown.candidates, strict=True)]
    assert 0 < np.mean(in_own) < 0.6
    assert np.array_equal(once.with_history(plain).candidates, shown.candidates)  # the same each time


def test_a_fully_visible_history_changes_what_its_tokens_say() -> None:
    batch = batch_of(grouping="request")
    causal, full = (ranker("genrank", SPEC, max_history=MAX_HISTORY, history_mask=m) for m in ("causal", "full"))
    with torch.no_grad():
        assert not torch.allclose(causal(batch)["click"], full(batch)["click"], atol=1e-4)
    for organization in (HSTU, {}):
        model = ranker("genrank", SPEC, max_history=MAX_HISTORY, history_mask="full", **organization)
        assert all(logits.isfinite().all() for logits in model(batch).values())


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("name", ["genrank", "hstu"])
def test_recomputed_blocks_give_the_same_loss_and_gradients(name: str, dropout: float) -> None:
    batch, found, runs = batch_of(), [], []
    for recompute in (False, True):
        changes = {"num_blocks": 3, "dropout": dropout, "recompute": recompute}
        model = ranker(name, SPEC, max_history=MAX_HISTORY, **changes).train()
        calls: list[int] = []
        model.blocks[0].register_forward_pre_hook(lambda _, arguments, calls=calls: calls.append(len(arguments[0])))
        torch.manual_seed(1)
        loss = summed_loss(model, batch)
        loss.backward()
        found.append([loss.detach(), *(p.grad.to_dense() for p in model.parameters())])
        runs.append(len(calls))
    assert runs == [2, 4]  # history and candidates, each once more for the gradient
    for kept, recomputed in zip(*found, strict=True):
        torch.testing.assert_close(recomputed, kept, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    "setting", [{"width": 30, "num_heads": 4}, {"dropout": 1.0}, {"num_blocks": 0}, {"id_dropout": -0.1}]
)
def test_impossible_settings_are_refused(setting: dict) -> None:
    with pytest.raises(ValueError, match=r"must be|multiple"):
        SequenceRankerConfig(**setting)


@pytest.mark.parametrize("setting", [{"mlp": ()}, {"mlp": (0,)}, {"num_cross_layers": -1}, {"width": 0}])
def test_impossible_pointwise_settings_are_refused(setting: dict) -> None:
    with pytest.raises(ValueError, match="must"):
        PointwiseRankerConfig(**setting)


def test_a_retired_setting_is_passed_over_at_the_value_it_always_had_and_refused_at_another() -> None:
    before = {**to_dict(SequenceRankerConfig()), "candidate_copies": False}
    assert build(SequenceRankerConfig, before, where="old.json") == SequenceRankerConfig()
    with pytest.raises(ConfigError, match=r"old.json: candidate_copies = True is no setting any more; remove it, or"):
        build(SequenceRankerConfig, {**before, "candidate_copies": True}, where="old.json")
