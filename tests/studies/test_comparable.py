"""The rules of fair verdicts, each on made-up cells."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from genrank.recipes import recipe
from genrank.studies.cells import CellResult
from genrank.studies.comparable import last_rise
from genrank.studies.conclusions import Evidence, conclude
from genrank.studies.study import Finding, Study, Variant
from genrank.studies.tuning import Choice

SEEDS, NUM_REPLICATES = 3, 40
WIN = Finding(claim="new beats old", contrast={"new": 1.0, "old": -1.0})
STUDY = Study(
    name="made-up",
    title="",
    question="",
    variants=(Variant(name="new", config=recipe("genrank-small")), Variant(name="old", config=recipe("mlp-small"))),
    baseline="old",
    findings=(WIN,),
)
FLAT = [{"exposures": 100 * step, "auc": 0.7 + 0.01 * min(step, 5)} for step in range(1, 11)]
RATES = ("1e-3", "2e-3", "4e-3")


def cell(auc: float, gauc: float, curve: Any = FLAT, **slices: tuple[float, float]) -> CellResult:
    def figures(auc: float, gauc: float) -> dict[str, Any]:
        wobble = 0.0001 * np.sin(np.arange(NUM_REPLICATES))
        replicates = {"auc": (auc + wobble).tolist(), "gauc": (gauc + wobble).tolist()}
        return {"num_exposures": 9, "auc": auc, "gauc": gauc, "neg_logloss": -0.5, "replicates": replicates}

    test = {"all": figures(auc, gauc), **{name: figures(*values) for name, values in slices.items()}}
    return CellResult(figures={"test": test, "curve": curve, "seconds": 1.0, "parameters": 5})


def cells(auc: float, gauc: float, **more: Any) -> dict[int, CellResult]:
    return {seed: cell(auc + 0.0001 * seed**2, gauc - 0.0001 * seed, **more) for seed in range(SEEDS)}


def choice(variant: str, best: str) -> Choice:
    tried = {(f"training.learning_rate={rate}",): 0.7 for rate in RATES}
    return Choice(variant=variant, tried=tried, best=(f"training.learning_rate={best}",))


def judged(
    new: Mapping[int, CellResult], old: Mapping[int, CellResult], study: Study = STUDY, **changes: Any
) -> dict[str, Any]:
    evidence = Evidence(
        results={"new": new, "old": old},
        seeds=range(SEEDS),
        baselines={"item_rate": cell(0.6, 0.6)},
        choices={name: choice(name, "2e-3") for name in ("new", "old")},
        speed={},
    )
    return conclude(study, replace(evidence, **changes))


def found(*arguments: Any, **changes: Any) -> dict[str, Any]:
    return judged(*arguments, **changes)["findings"][0]


def test_a_win_in_both_figures_between_sides_that_have_learnt_is_confirmed() -> None:
    finding = found(cells(0.75, 0.70), cells(0.74, 0.69))
    assert finding["verdict"] == "confirmed"
    assert finding["why"] == ""
    assert finding["unchecked"] == []


def test_nothing_is_comparable_on_data_that_leaks() -> None:
    finding = found(cells(0.75, 0.70), cells(0.74, 0.69), leaks=["a feature is the label"])
    assert finding["verdict"] == "not comparable"
    assert finding["why"] == "the data leaks: a feature is the label"


def test_a_win_in_one_figure_is_not_enough() -> None:
    tie = {seed: cell(0.75, 0.69 + difference) for seed, difference in enumerate((0.001, -0.001, 0.0005))}
    finding = found(tie, cells(0.74, 0.69))
    assert finding["verdicts"] == {"auc": "confirmed", "gauc": "undecided"}
    assert finding["verdict"] == "undecided"
    assert found(cells(0.75, 0.68), cells(0.74, 0.69))["verdict"] == "not confirmed"


@pytest.mark.parametrize(
    ("auc", "verdict"), [(0.629, "not comparable"), (0.59, "not comparable"), (0.631, "confirmed")]
)
def test_a_side_near_the_count_based_baseline_is_not_comparable(auc: float, verdict: str) -> None:
    result = judged(cells(0.75, 0.70), cells(auc, 0.60))
    assert result["findings"][0]["verdict"] == verdict
    why = result["rows"][1]["not_comparable"]
    assert ("the count-based baseline" in why) == (verdict == "not comparable")
    assert result["findings"][0]["why"] == why
    assert result["counting"] == 0.6


def rising(by: float) -> list[dict[str, float]]:
    """A curve that is flat but for its last tenth."""
    return [{"exposures": 100 * step, "auc": 0.7} for step in range(1, 10)] + [{"exposures": 1000, "auc": 0.7 + by}]


@pytest.mark.parametrize(("by", "verdict"), [(0.0012, "not comparable"), (0.0008, "confirmed"), (-0.01, "confirmed")])
@pytest.mark.parametrize("side", ["new", "old"])
def test_a_side_that_was_still_rising_is_not_comparable(side: str, by: float, verdict: str) -> None:
    curves = {"new": FLAT, "old": FLAT, side: rising(by)}
    finding = found(cells(0.75, 0.70, curve=curves["new"]), cells(0.74, 0.69, curve=curves["old"]))
    assert finding["verdict"] == verdict
    assert ("still rising" in finding["why"]) == (verdict == "not comparable")


def test_the_last_tenth_is_read_between_validations() -> None:
    assert last_rise([{"exposures": 50, "auc": 0.6}, {"exposures": 100, "auc": 0.7}], "auc") == pytest.approx(0.02)
    assert last_rise([{"exposures": 100, "auc": 0.7}], "auc") is None
    assert last_rise([], "auc") is None


def test_what_cells_are_too_poor_to_tell_is_said() -> None:
    result = judged(cells(0.75, 0.70, curve=()), cells(0.74, 0.69), baselines={})
    assert result["findings"][0]["unchecked"] == ["no count-based baseline", "no validation curve"]
    assert [row["unchecked"] for row in result["rows"]] == [
        ["no count-based baseline", "no validation curve"],
        ["no count-based baseline"],
    ]


@pytest.mark.parametrize(
    ("old", "why"),
    [
        (choice("old", "1e-3"), "old's best setting is at the edge of its grid (learning_rate=1e-3)"),
        (choice("old", "4e-3"), "old's best setting is at the edge of its grid (learning_rate=4e-3)"),
        (Choice(variant="old", tried={}, best=()), "old was not tuned"),
    ],
)
def test_a_win_over_a_side_that_was_not_tuned_to_an_interior_optimum_is_undecided(old: Choice, why: str) -> None:
    choices = {"new": choice("new", "2e-3"), "old": old}
    finding = found(cells(0.75, 0.70), cells(0.74, 0.69), choices=choices)
    assert finding["verdict"] == "undecided"
    assert finding["why"] == why
    lost = found(cells(0.73, 0.68), cells(0.74, 0.69), choices=choices)  # losing to it is as bad as ever
    assert lost["verdict"] == "not confirmed"


def test_the_winners_own_edge_does_not_matter_nor_do_edges_within_one_tuning() -> None:
    choices = {"new": choice("new", "1e-3"), "old": choice("old", "2e-3")}
    assert found(cells(0.75, 0.70), cells(0.74, 0.69), choices=choices)["verdict"] == "confirmed"
    ablation = replace(STUDY, variants=(STUDY.variant("new"), replace(STUDY.variant("old"), tuned_as="new")))
    finding = found(cells(0.75, 0.70), cells(0.74, 0.69), ablation, choices={"new": choice("new", "1e-3")})
    assert finding["verdict"] == "confirmed"


def test_a_win_over_a_side_without_its_main_input_is_undecided() -> None:
    weak = replace(STUDY, variants=(STUDY.variant("new"), replace(STUDY.variant("old"), weakness="statistics are off")))
    finding = found(cells(0.75, 0.70), cells(0.74, 0.69), weak)
    assert finding["verdict"] == "undecided"
    assert finding["why"] == "old: statistics are off"


def test_a_gain_here_is_held_against_the_gain_there() -> None:
    larger = replace(WIN, slice="first day", than="older")
    study = replace(STUDY, findings=(larger,), slices=True)
    new = cells(0.75, 0.70, **{"first day": (0.78, 0.74), "older": (0.74, 0.69)})
    old = cells(0.74, 0.69, **{"first day": (0.75, 0.71), "older": (0.73, 0.68)})
    finding = found(new, old, study)
    assert finding["contrasts"]["auc"]["mean"] == pytest.approx(0.02)
    assert finding["contrasts"]["gauc"]["mean"] == pytest.approx(0.02)
    assert finding["verdict"] == "confirmed"
    same = cells(0.75, 0.70, **{"first day": (0.76, 0.72), "older": (0.74, 0.69)})
    assert found(same, old, study)["verdict"] != "confirmed"


def test_non_inferiority_is_judged_by_its_margin_in_both_figures() -> None:
    study = replace(STUDY, findings=(replace(WIN, kind="not_below", margin=0.002),))
    assert found(cells(0.739, 0.689), cells(0.74, 0.69), study)["verdict"] == "confirmed"
    assert found(cells(0.737, 0.689), cells(0.74, 0.69), study)["verdict"] == "not confirmed"
    assert found(cells(0.739, 0.685), cells(0.74, 0.69), study)["verdict"] == "not confirmed"
