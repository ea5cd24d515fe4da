"""What every ranker and every setting does: one suite over the whole zoo."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from amounts import crossed
from genrank.batch import PackedBatch, map_arrays
from genrank.data.sequence import Samples, SequenceBuilder, take
from genrank.data.timelines import Timelines
from genrank.models.ranker import Ranker, build_ranker
from genrank.models.sequence_ranker import SequenceRanker
from genrank.nn.kv_cache import join
from worlds import SPEC, builder, timelines
from zoo import NAMES, config, ranker

MAX_HISTORY = 10
WORLD = timelines(lengths=[37, 0, 5, 1, 18], seed=5)


@pytest.fixture(params=NAMES, scope="module")
def model(request: pytest.FixtureRequest) -> Ranker:
    return ranker(request.param, SPEC, max_history=MAX_HISTORY)


def cut(model: Ranker, world: Timelines = WORLD, grouping: str = "user") -> SequenceBuilder:
    return builder(world, search=model.config.search, grouping=grouping, max_history=MAX_HISTORY)


def torch_batch(b: SequenceBuilder, samples: Samples | None = None, known: np.ndarray | None = None) -> PackedBatch:
    return map_arrays(b.batch(b.samples() if samples is None else samples, known=known), torch.from_numpy)


@torch.no_grad()
def scores(model: Ranker, b: SequenceBuilder, samples: Samples | None = None) -> dict[int, torch.Tensor]:
    """Logits by exposure."""
    batch = torch_batch(b, samples)
    logits = torch.cat(list(model(batch).values()), dim=1)
    return dict(zip(batch.candidates.exposure.tolist(), logits, strict=True))


def assert_same(one: dict[int, torch.Tensor], other: dict[int, torch.Tensor]) -> None:
    for exposure, logits in other.items():
        torch.testing.assert_close(one[exposure], logits, atol=3e-5, rtol=1e-4)


def total_loss(model: Ranker, batch: PackedBatch) -> torch.Tensor:
    return sum(loss.sum() for loss in model.loss(model(batch), batch).values())


@pytest.mark.parametrize(("model", "grouping"), crossed(NAMES, ["user", "1h", "pointwise"]), indirect=["model"])
def test_packed_equals_one_request_at_a_time(model: Ranker, grouping: str) -> None:
    alone = cut(model, grouping="request")
    single: dict[int, torch.Tensor] = {}
    for number in range(len(alone.samples())):
        single |= scores(model, alone, take(alone.samples(), np.array([number])))
    assert len(single) == WORLD.num_exposures
    assert_same(scores(model, cut(model, grouping=grouping)), single)


def test_a_request_scores_alone_as_it_does_among_others_decades_apart(model: Ranker) -> None:
    """Cold users among them: a score is no matter of who else is in the batch."""
    decade = 315_576_000
    shift = np.repeat(np.array([0, 1, 4, 2, 3]) * decade, np.diff(WORLD.offsets))
    world = replace(WORLD, time=WORLD.time + shift)
    b = cut(model, world, grouping="request")
    samples = b.samples()
    alone: dict[int, torch.Tensor] = {}
    for number in range(len(samples)):
        alone |= scores(model, b, take(samples, np.array([number])))
    cold = np.flatnonzero(samples.num_history == 0)
    assert len(cold) >= 4
    assert_same(scores(model, b, samples), alone)
    assert_same(alone, scores(model, b, take(samples, cold)))


def test_candidates_do_not_see_each_other(model: Ranker) -> None:
    b = cut(model, grouping="request")
    sample = take(b.samples(), np.array([int(np.argmax(b.samples().num_candidates))]))
    rows = sample.candidates[::-1][:-1].copy()  # turned around, and one of them left out
    assert len(rows) >= 2
    fewer = replace(sample, candidates=rows, candidate_offsets=np.array([0, len(rows)]))
    assert_same(scores(model, b, sample), scores(model, b, fewer))


def test_a_candidate_never_sees_its_own_request(model: Ranker) -> None:
    b = cut(model)
    row = 20
    own = b.request_key == b.request_key[row]
    flipped = replace(WORLD, tasks=WORLD.tasks | {"click": np.where(own, 1, WORLD.tasks["click"]).astype(np.int8)})
    flipped = replace(flipped, feedback={"rating": np.where(own, 2, WORLD.feedback["rating"]).astype(np.int32)})
    before, after = scores(model, b), scores(model, cut(model, flipped))
    torch.testing.assert_close(before[row], after[row])
    changed = [e for e in before if not torch.allclose(before[e], after[e], atol=1e-6)]
    assert changed  # later requests do see it
    assert all(b.request_time[e] > b.request_time[row] for e in changed)


def test_a_cached_history_equals_the_whole_forward(model: Ranker) -> None:
    batch = torch_batch(cut(model))
    with torch.no_grad():
        state: Any = model.encode_history(batch)
        whole, cached = model(batch), model.score(state, batch)
    for task, logits in whole.items():
        torch.testing.assert_close(cached[task], logits, atol=3e-5, rtol=1e-4)


def test_a_history_that_grows_event_by_event_equals_one_encoded_at_once(model: Ranker) -> None:
    if not isinstance(model, SequenceRanker) or not model.extends_history:
        pytest.skip("its history is encoded at once")
    b = cut(model, grouping="request")
    samples = b.samples()
    samples = take(samples, np.flatnonzero(samples.num_history > 3)[-5:])
    lengths = samples.num_history
    with torch.no_grad():
        whole = model.encode_history(torch_batch(b, samples))
        grown = model.encode_history(torch_batch(b, replace(samples, end=samples.start)))
        for count in range(lengths.max()):
            known, end = np.minimum(count, lengths), np.minimum(count + 1, lengths)
            part = torch_batch(b, replace(samples, end=samples.start + end), known=known)
            grown = model.extend_history(grown, part)
        assert grown.num_events.tolist() == whole.num_events.tolist() == lengths.tolist()
        candidates = torch_batch(b, samples, known=lengths)
        assert len(candidates.history.item) == 0
        one, other = model.score(whole, candidates), model.score(grown, candidates)
    for task, logits in one.items():
        torch.testing.assert_close(other[task], logits, atol=1e-5, rtol=1e-5)


def test_a_state_is_cut_and_joined(model: Ranker) -> None:
    if not isinstance(model, SequenceRanker) or not model.extends_history:
        pytest.skip("its history is encoded at once")
    b = cut(model, grouping="request")
    samples = b.samples()
    samples = take(samples, np.flatnonzero(samples.num_history > 3)[-3:])
    settled = samples.num_history - model.num_reencoded_events
    with torch.no_grad():
        alone = [model.encode_history(torch_batch(b, take(samples, np.array([s])))) for s in range(3)]
        kept = [state.first(int(count) // 2) for state, count in zip(alone, settled, strict=True)]
        grown = model.extend_history(join(kept), torch_batch(b, samples, known=settled // 2))
        one, other = (model.score(state, torch_batch(b, samples)) for state in (join(alone), grown))
    assert join(alone).num_bytes > sum(state.num_bytes for state in kept)
    for task, logits in one.items():
        torch.testing.assert_close(other[task], logits, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="the first 99 events"):
        alone[0].first(99)


def test_empty_histories_and_single_candidates_are_scored_and_trained(model: Ranker) -> None:
    batch = torch_batch(cut(model, timelines(lengths=[1, 1], seed=9)))
    assert all(logits.isfinite().all() and len(logits) == 2 for logits in model(batch).values())
    model.train()
    total_loss(model, batch).backward()
    model.eval()
    assert all(p.grad is None or p.grad.to_dense().isfinite().all() for p in model.parameters())


def test_very_unequal_lengths_score_as_they_do_alone(model: Ranker) -> None:
    world = timelines(lengths=[300, 1, 2], seed=3)
    together = scores(model, cut(model, world))
    b = cut(model, world)
    for user in range(3):
        chosen = np.flatnonzero(b.samples().user == user)
        assert_same(together, scores(model, b, take(b.samples(), chosen)))


def test_missing_features_are_scored(model: Ranker) -> None:
    batch = torch_batch(cut(model))
    bare = replace(
        batch,
        items={name: _nothing(column) for name, column in batch.items.items()},
        users={name: _nothing(column) for name, column in batch.users.items()},
        candidates=replace(
            batch.candidates,
            features={name: _nothing(column) for name, column in batch.candidates.features.items()},
            statistics=torch.zeros_like(batch.candidates.statistics),
        ),
    )
    with torch.no_grad():
        assert all(logits.isfinite().all() for logits in model(bare).values())


def _nothing(column: Any) -> Any:
    if isinstance(column, torch.Tensor):
        return torch.zeros_like(column)
    return replace(column, values=column.values[:0], offsets=torch.zeros_like(column.offsets))


def test_gradients_reach_every_parameter(model: Ranker) -> None:
    model.zero_grad()
    model.train()
    total_loss(model, torch_batch(cut(model))).backward()
    model.eval()
    missing = [n for n, p in model.named_parameters() if p.grad is None or p.grad.to_dense().abs().sum() == 0]
    assert missing == []


def test_weights_saved_and_loaded_score_the_same(model: Ranker, tmp_path: Path) -> None:
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    torch.manual_seed(99)
    other = build_ranker(model.config, SPEC, max_history=MAX_HISTORY).eval()
    other.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    one, two = scores(model, cut(model)), scores(other, cut(model))
    assert all(torch.equal(one[exposure], two[exposure]) for exposure in one)


def test_bf16_is_close_to_fp32_and_trains(model: Ranker) -> None:
    batch = torch_batch(cut(model))
    exact = model(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = model(batch)
    for task, logits in exact.items():
        torch.testing.assert_close(rough[task].float(), logits, atol=3e-2, rtol=3e-2)
    losses = model.loss({task: logits.float() for task, logits in rough.items()}, batch)
    sum(loss.sum() for loss in losses.values()).backward()
    assert all(p.grad is None or p.grad.to_dense().isfinite().all() for p in model.parameters())


def test_unknown_labels_cost_nothing(model: Ranker) -> None:
    batch = torch_batch(cut(model))
    for task, loss in model.loss(model(batch), batch).items():
        unknown = batch.candidates.labels[task].isnan()
        assert unknown.any()
        assert (loss[unknown] == 0).all()
        assert (loss[~unknown] > 0).any()


@pytest.mark.parametrize("name", ["genrank", "din"])
def test_names_of_the_users_schema_may_be_anything(name: str) -> None:
    tasks = tuple(replace(task, name=new) for task, new in zip(SPEC.tasks, ("forward", "keys"), strict=True))
    features = tuple(replace(f, name="train" if f.name == "tags" else f.name) for f in SPEC.features)
    spec = replace(SPEC, tasks=tasks, features=features)
    assert set(build_ranker(config(name), spec, max_history=8).outputs.heads) == {"forward", "keys"}
