"""`genrank recipes`: the named runs, what each is, and the settings of one as `--set` takes them."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from genrank.config import to_dict
from genrank.recipes import RECIPES, recipe
from genrank.text_table import TextTable


def described() -> list[dict[str, str]]:
    """Every recipe: `name`, `family` (the model's kind), `summary` (the first line of its docstring)."""
    return [
        {
            "name": name,
            "family": make().model.kind,
            "summary": (make.__doc__ or "").strip().splitlines()[0],
        }
        for name, make in RECIPES.items()
    ]


def recipes_table() -> TextTable:
    """All recipes for the terminal."""
    return TextTable(
        title="recipes, as in genrank train DATA --recipe NAME",
        head=["name", "family", "what it is"],
        rows=[[each["name"], each["family"], each["summary"]] for each in described()],
        caption="sequence and pointwise models rank, retrieval models find items; --show NAME prints all settings",
        unbroken=[0],
    )


def settings_of(name: str) -> dict[str, Any]:
    """The settings of a recipe by their path, as model.width. ConfigError names the nearest recipe."""
    values = to_dict(recipe(name))
    del values["recipe"]  # the recipe's name, which is no setting
    return dict(_flattened(values))


def setting_lines(name: str) -> Iterator[str]:
    """`path = value` for every setting, the value as `--set path=value` takes it."""
    for path, value in settings_of(name).items():
        yield f"{path} = {_literal(value)}"


def _flattened(values: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flattened(value, f"{path}{name}.")
        else:
            yield path + name, value


def _literal(value: Any) -> str:
    """The value as TOML writes it, and null, which TOML lacks, for a setting without a value."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name} = {_literal(each)}" for name, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_literal, value)) + "]"
    return json.dumps(value)  # text, numbers, true, false and null are written alike
