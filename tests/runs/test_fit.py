"""A recipe that is far too large or too short for the data says so before it trains."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from genrank.cli import main
from genrank.data.batch_plan import SampleSizes
from genrank.models.ranker import build_ranker
from genrank.recipes import RECIPES, recipe, siblings
from genrank.retrieval.retriever_config import RetrieverConfig
from genrank.runs.fit import INTERLEAVED_STEPS, MAX_PARAMETERS, MIN_STEPS, Extent, misfit, unfinished
from worlds import SPEC

ML_100K, DEMO = (79_999, 192_000), (265_410, 680_000)  # exposures to learn from, and tokens of their sequences
RANKERS = [name for name in RECIPES if not isinstance(recipe(name).model, RetrieverConfig)]
SMALL = [name for name in RANKERS if name.endswith("-small")]


def samples(num_exposures: int, num_tokens: int) -> SampleSizes:
    """One long sample."""
    zero = np.zeros(1, np.int64)
    return SampleSizes(
        user=zero.astype(np.int32),
        time=zero,
        num_history=np.array([num_tokens - num_exposures], np.int32),
        num_candidates=np.array([num_exposures], np.int32),
    )


def said(name: str, num_exposures: int, num_tokens: int, **loader: int) -> str:
    config = recipe(name)
    config = replace(config, loader=replace(config.loader, **loader))
    model = build_ranker(config.model, SPEC, max_history=config.sequence.max_history)
    steps = config.training.epochs * math.ceil(num_tokens / config.loader.batch_tokens)
    return misfit(model, config, SPEC, samples(num_exposures, num_tokens), num_steps=steps, siblings=siblings)


def test_a_run_of_interleaved_tokens_says_that_it_has_not_had_its_steps() -> None:
    hstu = recipe("hstu-small")
    assert "this run has 950" in unfinished(hstu, num_steps=950)
    assert unfinished(hstu, num_steps=INTERLEAVED_STEPS) == ""
    assert unfinished(recipe("genrank-small"), num_steps=10) == unfinished(recipe("mlp-small"), num_steps=10) == ""


@pytest.mark.parametrize(
    ("num_steps", "num_parameters", "number"),
    [
        (MIN_STEPS, 10 * MAX_PARAMETERS, 0),
        (MIN_STEPS - 1, 10 * MAX_PARAMETERS, 1),
        (MIN_STEPS, 10 * MAX_PARAMETERS + 1, 1),
        (MIN_STEPS - 1, 10 * MAX_PARAMETERS + 1, 2),
    ],
)
def test_bounds(num_steps: int, num_parameters: int, number: int) -> None:
    assert len(Extent(num_exposures=10, num_steps=num_steps, num_parameters=num_parameters).problems) == number


@pytest.mark.parametrize(
    ("name", "extent"), [*((name, ML_100K) for name in SMALL), *((name, DEMO) for name in (*SMALL, "genrank-demo"))]
)
def test_what_readme_recommends_fits(name: str, extent: tuple[int, int]) -> None:
    assert said(name, *extent) == ""


@pytest.mark.parametrize("name", [name for name in RANKERS if "-" not in name])
def test_a_large_recipe_on_ml_100k_names_the_small_one(name: str) -> None:
    sentence = said(name, *ML_100K)
    assert sentence.startswith(f"{name} does not fit this data: 12 training steps are too few (100 at least)")
    assert sentence.endswith(f"--recipe {name}-small fits")


def test_a_model_too_large_for_the_data_is_named_too() -> None:
    sentence = said("genrank-paper", 79_999, 5_000_000)
    assert "parameters outside the embedding tables are too many for 79,999 training exposures" in sentence
    assert "steps" not in sentence
    assert sentence.endswith("--recipe genrank fits")


def test_large_recipes_fit_large_logs() -> None:
    assert [said(name, 10_000_000, 25_000_000) for name in RANKERS if "-" not in name] == [""] * 5


def test_where_no_recipe_fits_the_settings_are_named() -> None:
    assert said("genrank-small", 300, 700).endswith(
        "; lower loader.batch_tokens or raise training.epochs, lower model.width"
    )
    short = said("genrank-small", *ML_100K, batch_tokens=100_000)
    assert short.endswith("6 training steps are too few (100 at least); the recipe's own settings, without --set, fit")


def test_it_is_said_on_screen_in_the_run_folder_and_in_the_report(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(["train", str(data), "--recipe", "mlp", "--out", str(run), "--set", "threads=1"]) == 0
    (sentence,) = json.loads((run / "warnings.json").read_text())
    assert "mlp does not fit this data" in sentence
    assert f"warning: {sentence}" in capsys.readouterr().err
    assert main(["evaluate", str(run)]) == 0
    assert sentence in (run / "report.html").read_text()
