"""Searches with equal trials that go on until their optimum is interior."""

import math
from collections.abc import Callable, Mapping

import pytest

from genrank.recipes import recipe
from genrank.studies.tuning import DEFAULT_GRID, Choice, Grid, Point, TuningSearch, in_turn, parse_grid

RATE, SPARSE = "training.learning_rate", "training.sparse_learning_rate"
CONFIG = recipe("genrank-small")


def numbers(point: Point) -> dict[str, str]:
    return dict(setting.split("=", 1) for setting in point)


def searched(
    figures: Mapping[str, Callable[[dict[str, str]], float | None]], grid: Grid, trials: int
) -> list[TuningSearch]:
    searches = [TuningSearch.of(name, CONFIG, grid.of(CONFIG, {})) for name in figures]
    for asked in in_turn(searches, trials):
        for search, point in asked:
            search.tried[point] = figures[search.variant](numbers(point))
    return searches


def peak(rate: float, sparse: float = 0.05) -> Callable[[dict[str, str]], float]:
    """Best at that learning rate and sparse learning rate."""
    return lambda at: -abs(math.log(float(at[RATE]) / rate)) - abs(math.log(float(at[SPARSE]) / sparse))


GRID = parse_grid([f"{RATE}=1e-3,2e-3,4e-3", f"{SPARSE}=0.025,0.05,0.1"])


@pytest.mark.parametrize(("rate", "sparse"), [(2e-3, 0.05), (2.5e-4, 0.05), (1.6e-2, 0.4), (5e-4, 0.2)])
def test_a_grid_grows_until_its_optimum_is_interior(rate: float, sparse: float) -> None:
    (search,) = searched({"it": peak(rate, sparse)}, GRID, trials=40)
    choice = search.choice("auc")
    assert choice is not None
    assert {name: float(value) for name, value in numbers(choice.best).items()} == pytest.approx(
        {RATE: rate, SPARSE: sparse}
    )
    assert choice.edges == []
    assert len(search.tried) < 40


def test_all_sides_have_as_many_trials() -> None:
    easy, far = searched({"easy": peak(2e-3), "far": peak(3.2e-2, 0.8)}, GRID, trials=40)
    assert len(easy.tried) == len(far.tried) > 7
    assert easy.is_interior
    assert far.is_interior


def test_trials_are_bounded_and_an_optimum_at_the_edge_is_named() -> None:
    (search,) = searched({"it": peak(1e3)}, GRID, trials=6)
    assert len(search.tried) == 6
    choice = search.choice("auc")
    assert choice is not None
    assert f"learning_rate={numbers(choice.best)[RATE]}" in choice.edges


def test_failed_trials_are_walked_around() -> None:
    (search,) = searched({"it": lambda at: None if float(at[RATE]) > 2e-3 else peak(1e-3)(at)}, GRID, trials=30)
    choice = search.choice("auc")
    assert choice is not None
    assert float(numbers(choice.best)[RATE]) == 1e-3
    assert choice.edges == []


def test_words_are_tried_one_by_one_and_batches_stay_whole() -> None:
    grid = parse_grid(["model.block=transformer,hstu", "loader.batch_tokens=2048,4096"])
    best = {"model.block": "hstu", "loader.batch_tokens": "1024"}
    (search,) = searched(
        {"it": lambda at: float(at["model.block"] == "hstu") - abs(int(at["loader.batch_tokens"]) - 1024)},
        grid,
        trials=12,
    )
    choice = search.choice("auc")
    assert choice is not None
    assert numbers(choice.best) == best
    assert all(numbers(point)["loader.batch_tokens"].isdigit() for point in search.tried)


def test_a_search_begins_at_the_recipes_own_values() -> None:
    own = Grid(values={RATE: ("1e-3", "2e-3"), "loader.batch_tokens": ("1024", "4096", "8192")}).of(CONFIG, {})
    assert own.start == (f"{RATE}=2e-3", "loader.batch_tokens=4096")


def test_what_the_user_sets_is_not_tuned() -> None:
    grid = parse_grid(DEFAULT_GRID, ["loader.batch_tokens=512"])
    assert list(grid.values) == [RATE, SPARSE]
    assert list(parse_grid([f"{RATE}=1e-3,2e-3"], [f"{RATE}=1"]).values) == [RATE]
    assert not parse_grid(["none"]).is_tuned


def test_a_choice_reads_back() -> None:
    (search,) = searched({"it": peak(1e-3)}, GRID, trials=4)
    choice = search.choice("auc")
    assert choice is not None
    assert Choice.of(choice.to_json(), "auc") == choice
