"""`genrank recipes`: what it lists, and that what it shows can be given back with --set."""

import json

import pytest

from genrank.cli import main
from genrank.config import override
from genrank.recipes import RECIPES, recipe


def test_every_recipe_is_listed_with_its_family_and_a_sentence_of_its_own(capsys) -> None:
    assert main(["recipes", "--json"]) == 0
    listed = {each["name"]: each for each in json.loads(capsys.readouterr().out)}
    assert list(listed) == list(RECIPES)
    assert {name: listed[name]["family"] for name in ("genrank", "din", "grank")} == {
        "genrank": "sequence",
        "din": "pointwise",
        "grank": "retrieval",
    }
    summaries = [each["summary"] for each in listed.values()]
    assert len(set(summaries)) == len(summaries)
    assert not [summary for summary in summaries if summary.startswith("The same") or len(summary) < 15]


def test_the_list_for_people_names_all_of_them(capsys) -> None:
    assert main(["recipes"]) == 0
    said = capsys.readouterr().out
    assert not [name for name in RECIPES if name not in said]


@pytest.mark.parametrize("name", RECIPES)
def test_settings_as_they_are_shown_can_be_set(name: str, capsys) -> None:
    assert main(["recipes", "--show", name]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"model.width = {recipe(name).model.width}" in lines
    shown = [line.replace(" = ", "=", 1) for line in lines]
    assert override(recipe(name), shown) == recipe(name)


def test_one_recipes_settings_as_json(capsys) -> None:
    assert main(["recipes", "--show", "grank-small", "--json"]) == 0
    settings = json.loads(capsys.readouterr().out)
    assert settings["training.epochs"] == recipe("grank-small").training.epochs
    assert settings["model.recent"] == [1, 16]
    assert "recipe" not in settings


def test_a_recipe_that_does_not_exist_is_refused_by_the_nearest_name(capsys) -> None:
    assert main(["recipes", "--show", "genrnk"]) == 2
    captured = capsys.readouterr()
    assert "did you mean 'genrank'?" in captured.err
    assert captured.out == ""
