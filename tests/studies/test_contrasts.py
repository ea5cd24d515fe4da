"""Intervals, tests and verdicts against what is known of made-up figures."""

import math

import numpy as np
import pytest

from genrank.studies.contrasts import (
    VariantFigure,
    Verdict,
    both_intervals,
    contrast,
    joint,
    paired_test,
    power,
    relative,
    speed_verdict,
    verdict,
)
from genrank.studies.sanity import compare_with_itself
from genrank.studies.scaling import power_law
from genrank.studies.study import Finding

NUM_REPLICATES = 200
SEED_NOISE, USER_NOISE = 0.002, 0.004


def pool(random: np.random.Generator, *, runs: int, users: float = USER_NOISE) -> tuple[np.ndarray, np.ndarray]:
    """AUC of `runs` runs that differ in seed noise, and replicates over users, whom all runs share."""
    value_N = 0.75 + SEED_NOISE * random.standard_normal(runs)
    drift_R = users * random.standard_normal(NUM_REPLICATES)
    return value_N, value_N[:, None] + drift_R[None, :]


def test_a_contrast_is_paired_by_seed_and_by_user() -> None:
    random = np.random.default_rng(0)
    shared_S, shared_R = random.standard_normal(5), random.standard_normal(NUM_REPLICATES)
    low = VariantFigure(shared_S, shared_S[:, None] + shared_R)
    high = VariantFigure(shared_S + 0.01, shared_S[:, None] + shared_R + 0.01)
    found = contrast({"high": 1.0, "low": -1.0}, {"high": high, "low": low})
    assert found.mean == pytest.approx(0.01)
    assert found.deviation == pytest.approx(0, abs=1e-12)
    assert found.user_interval == pytest.approx((0.01, 0.01))


def test_the_interval_holds_the_truth_19_times_in_20() -> None:
    """Where both seeds and users vary."""
    random, held, times = np.random.default_rng(1), 0, 1000
    for _ in range(times):
        users = USER_NOISE * random.standard_normal()  # how these users differ from all users
        seeds_S = SEED_NOISE * random.standard_normal(5)
        replicates_R = users + seeds_S.mean() + USER_NOISE * random.standard_normal(NUM_REPLICATES)
        bounds = both_intervals(users + seeds_S, replicates_R)
        assert bounds is not None
        held += bounds[0] <= 0 <= bounds[1]
    assert 0.925 < held / times < 0.975


def test_a_recipe_against_itself_differs_in_one_comparison_of_20() -> None:
    """Over many pools: comparisons within one pool share runs."""
    random = np.random.default_rng(2)
    rows = [compare_with_itself(*pool(random, runs=20), seed=seed) for seed in range(12)]
    for row in rows:
        assert row is not None
        assert row["comparisons"] == 200
    assert np.mean([row["rows"][0]["test"] for row in rows]) == pytest.approx(0.05, abs=0.02)


def test_a_planted_effect_is_found_with_the_claimed_power() -> None:
    random = np.random.default_rng(3)
    rows = [compare_with_itself(*pool(random, runs=20), seed=seed)["rows"][1] for seed in range(12)]
    found, claimed = np.mean([row["test"] for row in rows]), np.mean([row["expected"] for row in rows])
    assert found == pytest.approx(claimed, abs=0.05)
    assert claimed == pytest.approx(power(0.003, math.sqrt(2) * SEED_NOISE, 5), abs=0.1)
    assert 0.3 < found < 0.9


def test_power_is_how_often_the_test_finds_the_effect() -> None:
    random, times = np.random.default_rng(4), 2000
    found = sum(paired_test(0.003 + 0.002 * random.standard_normal(5)) < 0.05 for _ in range(times))
    assert found / times == pytest.approx(power(0.003, 0.002, 5), abs=0.03)
    assert power(0.0, 0.002, 5) == pytest.approx(0.05)


def test_one_seed_decides_nothing() -> None:
    one = VariantFigure(np.array([0.01]), np.full((1, NUM_REPLICATES), 0.01))
    found = contrast({"it": 1.0}, {"it": one})
    assert found.interval is None
    assert found.p_value is None
    assert verdict(Finding(claim="", contrast={"it": 1.0}), found) == "not measured"


@pytest.mark.parametrize(
    ("kind", "size", "interval", "expected"),
    [
        ("above", 0.002, (0.001, 0.003), "confirmed"),
        ("above", 0.002, (-0.001, 0.003), "undecided"),
        ("above", 0.002, (-0.003, -0.001), "not confirmed"),
        ("above", 0.010, (-0.001, 0.004), "not confirmed"),  # less than half of the paper's
        ("above", None, (-0.001, 0.0001), "undecided"),
        ("parity", None, (-0.0005, 0.0005), "confirmed"),
        ("parity", None, (-0.0005, 0.002), "undecided"),
        ("parity", None, (0.002, 0.003), "not confirmed"),
        ("not_below", None, (-0.0005, 0.1), "confirmed"),
        ("not_below", None, (-0.002, 0.1), "undecided"),
        ("not_below", None, (-0.02, -0.0011), "not confirmed"),
        ("at_most", None, (-0.1, 0.0005), "confirmed"),
        ("at_most", None, (0.0005, 0.002), "undecided"),
        ("at_most", None, (0.002, 0.003), "not confirmed"),
    ],
)
def test_verdicts(kind: str, size: float | None, interval: tuple[float, float], expected: str) -> None:
    middle, reach = sum(interval) / 2, (interval[1] - interval[0]) / 2
    random = np.random.default_rng(0)
    noise_R = random.standard_normal(NUM_REPLICATES)
    users_R = middle + reach / 1.96 * (noise_R - noise_R.mean()) / noise_R.std(ddof=1)
    seeds_S = np.full(5, middle)
    found = contrast({"it": 1.0}, {"it": VariantFigure(seeds_S, np.tile(users_R, (5, 1)))})
    assert found.interval == pytest.approx(interval, abs=1e-6)
    assert verdict(Finding(claim="", contrast={"it": 1.0}, kind=kind), found, size=size) == expected


def test_verdicts_on_speed() -> None:
    assert speed_verdict({"value": 1.2, "low": 1.1, "high": 1.3}) == "confirmed"
    assert speed_verdict({"value": 1.0, "low": 0.9, "high": 1.1}) == "undecided"
    assert speed_verdict({"value": 0.9, "low": 0.8, "high": 0.95}) == "not confirmed"
    assert speed_verdict(None) == "not measured"


def test_a_power_law_is_recovered() -> None:
    random = np.random.default_rng(5)
    x = np.array([1e3, 1e4, 1e5, 1e6, 1e7])
    loss_SX = 0.4 + 2.0 * x**-0.3 + 1e-4 * random.standard_normal((5, len(x)))
    law = power_law(x, loss_SX)
    assert law is not None
    assert law["exponent"] == pytest.approx(0.3, abs=0.02)
    assert law["floor"] == pytest.approx(0.4, abs=0.005)
    low, high = law["exponent_interval"]
    assert low - 0.01 < 0.3 < high + 0.01
    assert 0 < high - low < 0.05


def test_no_power_law_where_nothing_falls() -> None:
    x = np.array([1.0, 2.0, 4.0, 8.0])
    assert power_law(x, np.array([[0.5, 0.51, 0.52, 0.53]])) is None
    assert power_law(x[:3], np.array([[0.5, 0.4, 0.3]])) is None


@pytest.mark.parametrize("step", [1.0, 2.0, 3.0])
def test_no_power_law_is_shown_whose_exponent_sits_on_its_bound(step: float) -> None:
    """A loss that falls off a cliff after the first point would have any exponent, however large."""
    x = np.array([1.0, 2.0, 4.0, 8.0, 16.0])
    assert power_law(x, np.array([[0.5 + step, 0.5, 0.5, 0.5, 0.5]])) is None


def test_no_power_law_is_shown_whose_exponent_seeds_leave_open() -> None:
    random = np.random.default_rng(6)
    x = np.array([1.0, 2.0, 4.0, 8.0])
    steady = 0.5 + 0.1 * x**-1.0
    assert power_law(x, np.tile(steady, (3, 1)) + 1e-6 * random.standard_normal((3, 4))) is not None
    assert power_law(x, np.tile(steady, (3, 1)) + 0.1 * random.standard_normal((3, 4))) is None


def test_relative_gains_compare_models_at_different_levels() -> None:
    """From .6 to .62 is a fifth of what there was above chance, as is from .75 to .80."""
    low, high = (pool(np.random.default_rng(7), runs=3)[0] * 0 + level for level in (0.6, 0.75))
    figures = {"a": low, "a+": low + 0.02, "b": high, "b+": high + 0.05}
    shares = {
        name: relative(VariantFigure(value, np.tile(value[:, None], 30)), "auc") for name, value in figures.items()
    }
    assert contrast({"a+": 1, "a": -1, "b+": -1, "b": 1}, shares).mean == pytest.approx(0, abs=1e-12)
    assert contrast({"a+": 1, "a": -1}, shares).mean == pytest.approx(math.log(1.2))
    assert relative(VariantFigure(np.array([0.49]), np.array([[0.6]])), "auc") is None


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (("confirmed", "confirmed"), "confirmed"),
        (("confirmed", "undecided"), "undecided"),
        (("confirmed", "not measured"), "undecided"),
        (("confirmed", "not confirmed"), "not confirmed"),
        (("not measured", "confirmed"), "not measured"),
        (("undecided", "confirmed"), "undecided"),
    ],
)
def test_a_claim_has_to_hold_in_both_figures(verdicts: tuple[Verdict, ...], expected: str) -> None:
    assert joint(verdicts) == expected
