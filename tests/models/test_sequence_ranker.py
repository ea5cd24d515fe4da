from dataclasses import replace

import numpy as np
import pytest
import torch

from genrank.batch import PackedBatch, map_arrays
from genrank.data.sequence import Samples, SequenceBuilder, take
from genrank.models.sequence_ranker import SequenceRanker, SequenceRankerConfig
from worlds import SPEC, builder, timelines

SETTINGS = {
    "default": {},
    "both-alibi": {"alibi": "both"},
    "time-alibi": {"alibi": "time"},
    "no-encoding": {"encoding": "none", "alibi": "none"},
    "user-prefix": {"user_features": "prefix"},
    "no-user": {"user_features": "none", "attention_gate": False},
    "regression": {"duration_head": "regression"},
    "three-blocks": {"num_blocks": 3, "attention": "plain"},
}
MAX_HISTORY = 10


@pytest.fixture(params=SETTINGS, scope="module")
def model(request: pytest.FixtureRequest) -> SequenceRanker:
    torch.manual_seed(0)
    config = SequenceRankerConfig(width=16, num_heads=2, feedforward=32, tower=8, **SETTINGS[request.param])
    return SequenceRanker(config, SPEC, max_history=MAX_HISTORY).eval()


def torch_batch(b: SequenceBuilder, samples: Samples) -> PackedBatch:
    return map_arrays(b.batch(samples), torch.from_numpy)


@torch.no_grad()
def scores_by_exposure(model: SequenceRanker, b: SequenceBuilder, samples: Samples) -> dict[int, torch.Tensor]:
    batch = torch_batch(b, samples)
    logits = torch.cat(list(model(batch).values()), dim=1)
    return dict(zip(batch.candidates.exposure.tolist(), logits, strict=True))


def assert_same(one: dict[int, torch.Tensor], other: dict[int, torch.Tensor]) -> None:
    for exposure, logits in other.items():
        torch.testing.assert_close(one[exposure], logits, atol=2e-5, rtol=1e-4)


WORLD = timelines(lengths=[37, 0, 5, 1, 18], seed=5)


@pytest.mark.parametrize("grouping", ["user", "1h", "pointwise"])
def test_packed_equals_one_request_at_a_time(model: SequenceRanker, grouping: str) -> None:
    alone = builder(WORLD, grouping="request", max_history=MAX_HISTORY)
    packed = builder(WORLD, grouping=grouping, max_history=MAX_HISTORY)
    single: dict[int, torch.Tensor] = {}
    for number in range(len(alone.samples())):
        single |= scores_by_exposure(model, alone, take(alone.samples(), np.array([number])))
    assert len(single) == WORLD.num_exposures
    assert_same(scores_by_exposure(model, packed, packed.samples()), single)


def test_candidates_do_not_see_each_other(model: SequenceRanker) -> None:
    b = builder(WORLD, grouping="request", max_history=MAX_HISTORY)
    largest = int(np.argmax(b.samples().num_candidates))
    sample = take(b.samples(), np.array([largest]))
    whole = scores_by_exposure(model, b, sample)
    rows = sample.candidates[::-1][:-1].copy()  # turned around, and one of them left out
    fewer = replace(sample, candidates=rows, candidate_offsets=np.array([0, len(rows)]))
    assert len(rows) >= 2
    assert_same(whole, scores_by_exposure(model, b, fewer))


def test_a_candidate_never_sees_its_own_request(model: SequenceRanker) -> None:
    b = builder(WORLD, grouping="user", max_history=MAX_HISTORY)
    before = scores_by_exposure(model, b, b.samples())
    row = 20
    own = b.request_key == b.request_key[row]
    flipped = replace(WORLD, tasks=WORLD.tasks | {"click": np.where(own, 1, WORLD.tasks["click"]).astype(np.int8)})
    flipped = replace(flipped, feedback={"rating": np.where(own, 2, WORLD.feedback["rating"]).astype(np.int32)})
    after_builder = builder(flipped, grouping="user", max_history=MAX_HISTORY)
    after = scores_by_exposure(model, after_builder, after_builder.samples())
    torch.testing.assert_close(before[row], after[row])
    changed = [e for e in before if not torch.allclose(before[e], after[e], atol=1e-6)]
    assert changed  # later requests do see it
    assert all(b.request_time[e] > b.request_time[row] for e in changed)


def test_cached_history_equals_the_whole_forward(model: SequenceRanker) -> None:
    b = builder(WORLD, grouping="user", max_history=MAX_HISTORY)
    batch = torch_batch(b, b.samples())
    with torch.no_grad():
        whole, cached = model(batch), model.score(model.encode_history(batch), batch)
    for task, logits in whole.items():
        torch.testing.assert_close(cached[task], logits)


def test_empty_histories_and_single_candidates_are_scored(model: SequenceRanker) -> None:
    lone = timelines(lengths=[1, 1], seed=9)
    b = builder(lone, max_history=MAX_HISTORY)
    scores = scores_by_exposure(model, b, b.samples())
    assert len(scores) == 2
    assert all(logits.isfinite().all() for logits in scores.values())


def test_gradients_reach_every_parameter(model: SequenceRanker) -> None:
    b = builder(WORLD, grouping="user", max_history=MAX_HISTORY)
    batch = torch_batch(b, b.samples())
    model.zero_grad()
    model.train()
    sum(loss.sum() for loss in model.loss(model(batch), batch).values()).backward()
    model.eval()
    missing = [n for n, p in model.named_parameters() if p.grad is None or p.grad.to_dense().abs().sum() == 0]
    assert missing == []


def test_bf16_is_close_to_fp32_and_trains(model: SequenceRanker) -> None:
    b = builder(WORLD, grouping="user", max_history=MAX_HISTORY)
    batch = torch_batch(b, b.samples())
    exact = model(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = model(batch)
    for task, logits in exact.items():
        torch.testing.assert_close(rough[task].float(), logits, atol=2e-2, rtol=2e-2)
    losses = model.loss({task: logits.float() for task, logits in rough.items()}, batch)
    sum(loss.sum() for loss in losses.values()).backward()
    assert all(p.grad is None or p.grad.to_dense().isfinite().all() for p in model.parameters())


def test_embedding_gradients_are_sparse_and_touch_looked_up_rows_only() -> None:
    model = SequenceRanker(SequenceRankerConfig(id_dropout=0.0), SPEC, max_history=MAX_HISTORY)
    b = builder(timelines(lengths=[3], seed=1), max_history=MAX_HISTORY)
    batch = torch_batch(b, b.samples())
    sum(loss.sum() for loss in model.loss(model(batch), batch).values()).backward()
    gradient = model.items.tables["of_item_id"].weight.grad
    assert gradient.is_sparse
    assert set(gradient.coalesce().indices()[0].tolist()) == set(batch.items["item_id"].tolist())


def test_unknown_labels_cost_nothing() -> None:
    model = SequenceRanker(SequenceRankerConfig(), SPEC, max_history=MAX_HISTORY).eval()
    b = builder(WORLD, max_history=MAX_HISTORY)
    batch = torch_batch(b, b.samples())
    losses = model.loss(model(batch), batch)
    for task, loss in losses.items():
        unknown = batch.candidates.labels[task].isnan()
        assert unknown.any()
        assert (loss[unknown] == 0).all()
        assert (loss[~unknown] > 0).any()


def test_names_of_the_users_schema_may_be_anything() -> None:
    tasks = tuple(replace(task, name=name) for task, name in zip(SPEC.tasks, ("forward", "keys"), strict=True))
    features = tuple(replace(f, name="train" if f.name == "tags" else f.name) for f in SPEC.features)
    model = SequenceRanker(SequenceRankerConfig(), replace(SPEC, tasks=tasks, features=features), max_history=8)
    assert set(model.heads) == {"forward", "keys"}


@pytest.mark.parametrize(
    "setting", [{"width": 30, "num_heads": 4}, {"dropout": 1.0}, {"num_blocks": 0}, {"id_dropout": -0.1}]
)
def test_impossible_settings_are_refused(setting: dict) -> None:
    with pytest.raises(ValueError, match=r"must be|multiple"):
        SequenceRankerConfig(**setting)
