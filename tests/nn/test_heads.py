"""Duration heads on samples with a known answer, one suite for all."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genrank.nn.durations import DurationHead
from genrank.nn.heads import DURATION_HEADS, BinaryHead, DurationModel, task_head
from genrank.schema import TaskSpec

NUM_BUCKETS = 8
NAMES: list[DurationHead] = list(DURATION_HEADS)
NAN = float("nan")


def sample(scale: float = 4.0, count: int = 2000) -> torch.Tensor:
    """Durations skewed to the right, as play times are."""
    generator = torch.Generator().manual_seed(0)
    return -scale * torch.rand(count, 2, generator=generator).log().sum(1)


def task(seconds_C: torch.Tensor, *, groups: tuple[torch.Tensor, ...] = (), num_quantiles: int = 101) -> TaskSpec:
    """The task as preparation would find it in `seconds_C`."""
    edges = torch.quantile(seconds_C, torch.linspace(0, 1, NUM_BUCKETS + 1)[1:-1])
    bucket = torch.bucketize(seconds_C, edges, right=True)
    levels = torch.linspace(0, 1, num_quantiles)
    return TaskSpec(
        name="dwell",
        kind="duration",
        boundaries=tuple(edges.tolist()),
        means=tuple(float(seconds_C[bucket == k].mean()) for k in range(NUM_BUCKETS)),
        group="length" if groups else "",
        group_quantiles=tuple(tuple(torch.quantile(group, levels).tolist()) for group in groups),
    )


def fit(head: DurationModel, label_C: torch.Tensor, *arguments: Any, logits_K: torch.Tensor | None = None) -> Any:
    """The (1, K) logits, the same for all candidates, of least mean loss."""
    logits_1K = (torch.zeros(head.num_logits) if logits_K is None else logits_K.clone())[None].requires_grad_()
    optimizer = torch.optim.Adam([logits_1K], lr=0.05)
    for _ in range(600):
        optimizer.zero_grad()
        head.loss(logits_1K.expand(len(label_C), -1), label_C, *arguments).mean().backward()
        optimizer.step()
    return logits_1K.detach()


def predicted(head: DurationModel, logits_1K: torch.Tensor) -> float:
    return float(head.predict(logits_1K))


def test_every_name_of_a_head_has_its_class() -> None:
    assert set(NAMES) == set(DurationHead.__args__)  # type: ignore[attr-defined]
    for name, head in DURATION_HEADS.items():
        assert type(task_head(task(sample()), name)) is head


def test_a_binary_task_has_a_binary_head_and_a_duration_without_edges_none() -> None:
    assert isinstance(task_head(TaskSpec(name="click", kind="binary"), "wlr"), BinaryHead)
    with pytest.raises(ValueError, match="'dwell' has no bucket edges"):
        task_head(TaskSpec(name="dwell", kind="duration"), "wlr")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("known", [True, False], ids=["some_known", "none_known"])
def test_an_unknown_label_costs_nothing_and_its_gradient_is_zero(name: DurationHead, known: bool) -> None:
    head = task_head(task(sample()), name)
    label_C = torch.tensor([NAN, 3.0 if known else NAN, NAN, 0.0 if known else NAN])
    for size in (0.0, 1.0, 200.0):
        logits_CK = (size * torch.randn(4, head.num_logits)).requires_grad_()
        loss_C = head.loss(logits_CK, label_C, torch.tensor([False, False, True, True]))
        loss_C.sum().backward()
        assert loss_C.shape == (4,)
        assert loss_C.isfinite().all()
        assert logits_CK.grad.isfinite().all()
        assert (loss_C[label_C.isnan()] == 0).all()
        assert (logits_CK.grad[label_C.isnan()] == 0).all()
        assert not known or loss_C[1] > 0


@pytest.mark.parametrize("name", NAMES)
@given(size=st.sampled_from([0.1, 3.0, 1000.0]), seed=st.integers(0, 100))
def test_predictions_are_finite_seconds(name: DurationHead, size: float, seed: int) -> None:
    head = task_head(task(sample()), name)
    logits_CK = size * torch.randn(16, head.num_logits, generator=torch.Generator().manual_seed(seed))
    seconds_C = head.predict(logits_CK)
    assert seconds_C.shape == (16,)
    assert seconds_C.isfinite().all()
    assert (seconds_C >= 0).all()


@pytest.mark.parametrize(("name", "tolerance"), [("ordinal", 0.001), ("regression", 0.001), ("wlr", 0.001)])
def test_the_mean_of_a_sample_is_learned(name: DurationHead, tolerance: float) -> None:
    seconds_C = sample()
    head = task_head(task(seconds_C), name)
    assert predicted(head, fit(head, seconds_C)) == pytest.approx(float(seconds_C.mean()), rel=tolerance)


def test_the_quantiles_of_a_sample_are_learned_and_their_mean_lacks_the_tail() -> None:
    seconds_C = sample()
    head = DURATION_HEADS["quantile"](task(seconds_C))
    logits_1K = fit(head, seconds_C)
    levels_K = (torch.arange(16) + 0.5) / 16
    found_K = head.quantiles(logits_1K)[0].expm1() * head.scale
    assert torch.allclose(found_K, torch.quantile(seconds_C, levels_K), rtol=0.05)
    mean = float(seconds_C.mean())
    assert 0.95 * mean < predicted(head, logits_1K) < mean


def test_zero_logits_of_the_quantile_head_stand_for_an_exponential_distribution() -> None:
    head = DURATION_HEADS["quantile"](task(sample()))
    levels_K = (torch.arange(16) + 0.5) / 16
    expected_K = (1 - (1 - levels_K).log()).log()
    assert torch.allclose(head.quantiles(torch.zeros(1, 16))[0], expected_K, atol=1e-5)


def test_d2q_learns_the_mean_rank_which_is_about_the_median() -> None:
    seconds_C = sample()
    head = task_head(task(seconds_C, groups=(seconds_C,)), "d2q")
    found = predicted(head, fit(head, seconds_C))
    assert found == pytest.approx(float(seconds_C.median()), rel=0.01)
    assert found < 0.9 * float(seconds_C.mean())


def test_d2q_inverts_every_rank_of_every_group() -> None:
    short_C, long_C = sample(1.0), sample(9.0)
    spec = task(torch.cat([short_C, long_C]), groups=(short_C, long_C), num_quantiles=11)
    head = DURATION_HEADS["d2q"](spec)
    rank_Q = torch.linspace(0, 1, 11).double()
    for group in range(2):
        quantiles_Q, group_Q = torch.tensor(spec.group_quantiles[group]), torch.full((11,), group)
        seconds_Q = head.predict(torch.logit(rank_Q)[:, None], group_Q)
        assert torch.allclose(seconds_Q, quantiles_Q.double(), rtol=1e-6)
        assert torch.allclose(head.rank(quantiles_Q, group_Q).double(), rank_Q, atol=1e-6)


def test_d2q_ranks_the_same_duration_by_its_group() -> None:
    short_C, long_C = sample(1.0), sample(9.0)
    head = DURATION_HEADS["d2q"](task(torch.cat([short_C, long_C]), groups=(short_C, long_C)))
    in_short, in_long = head.rank(torch.tensor([5.0, 5.0]), torch.tensor([0, 1])).tolist()
    assert in_short == pytest.approx(float((short_C < 5).float().mean()), abs=0.01)
    assert in_long == pytest.approx(float((long_C < 5).float().mean()), abs=0.01)
    groups = [torch.full((2000,), group) for group in range(2)]
    logits_21 = torch.cat([fit(head, part, None, group) for part, group in zip((short_C, long_C), groups, strict=True)])
    below, above = head.predict(logits_21, torch.tensor([0, 1])).tolist()
    assert below < above / 4


def test_a_value_that_fills_many_quantiles_has_the_middle_of_its_ranks() -> None:
    spec = TaskSpec(name="dwell", kind="duration", boundaries=(1.0,), group_quantiles=((0.0, 0.0, 0.0, 4.0, 8.0),))
    head = DURATION_HEADS["d2q"](spec)
    assert head.rank(torch.tensor([-1.0, 0.0, 2.0, 8.0, 99.0])).tolist() == [0.0, 0.25, 0.625, 1.0, 1.0]


def test_without_groups_d2q_ranks_among_all_training_durations() -> None:
    seconds_C = sample()
    head = DURATION_HEADS["d2q"](task(seconds_C))
    true_rank_C = (seconds_C[:, None] > seconds_C).float().mean(1)
    assert (head.rank(seconds_C) - true_rank_C).abs().max() < 0.08


@pytest.mark.parametrize("name", NAMES)
def test_a_censored_duration_never_pushes_a_prediction_down(name: DurationHead) -> None:
    head, censored_C = task_head(task(sample()), name), torch.ones(1, dtype=torch.bool)
    torch.manual_seed(1)
    for seconds in (0.0, 0.5, 8.0, 60.0):
        for _ in range(20):
            logits_1K = (2 * torch.randn(1, head.num_logits)).requires_grad_()
            head.loss(logits_1K, torch.tensor([seconds]), censored_C).sum().backward()
            after_1K = logits_1K.detach() - 0.1 * logits_1K.grad
            assert predicted(head, after_1K) >= predicted(head, logits_1K.detach()) * (1 - 1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_censored_duration_pulls_a_lower_prediction_up(name: DurationHead) -> None:
    seconds_C = sample()
    head, label_C = task_head(task(seconds_C), name), torch.full((8,), float(seconds_C.quantile(0.9)))
    low_1K = fit(head, seconds_C.clamp_max(2.0))
    after_1K = fit(head, label_C, torch.ones(8, dtype=torch.bool), logits_K=low_1K[0])
    assert predicted(head, after_1K) > 2 * predicted(head, low_1K)


@pytest.mark.parametrize("name", NAMES)
def test_censoring_that_is_false_everywhere_changes_nothing(name: DurationHead) -> None:
    seconds_C = sample(count=50)
    head = task_head(task(seconds_C), name)
    logits_CK = torch.randn(50, head.num_logits)
    none_C = torch.zeros(50, dtype=torch.bool)
    assert torch.equal(head.loss(logits_CK, seconds_C, none_C), head.loss(logits_CK, seconds_C))


def test_weighted_logistic_regression_equals_its_definition() -> None:
    seconds_C = sample(count=50).double()
    head = DURATION_HEADS["wlr"](task(sample()))
    z_C = torch.randn(50, dtype=torch.float64)
    t_C = seconds_C / head.scale
    y_C = t_C / (1 + t_C)
    expected_C = -(1 + t_C) * (y_C * z_C.sigmoid().log() + (1 - y_C) * (1 - z_C.sigmoid()).log())
    assert torch.allclose(head.loss(z_C[:, None], seconds_C), expected_C, atol=1e-12)
    assert predicted(head, torch.tensor([[math.log(2.0)]])) == pytest.approx(2 * head.scale, rel=1e-6)
