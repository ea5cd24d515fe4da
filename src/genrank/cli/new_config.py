"""The configuration of a new run, as the commands that train take it from their options."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from genrank.data.learned_days import LearnedDays
    from genrank.runs.run_config import RunConfig

DEFAULT = "genrank"


def new_config(
    recipe: str | None,
    *,
    begin: Path | None,
    seed: int,
    settings: Sequence[str] | None,
    days: "LearnedDays | None" = None,
) -> "RunConfig":
    """That of a recipe, or without its name that of the run `begin`, from which the new one begins. ConfigError."""
    from dataclasses import replace

    from genrank import recipes
    from genrank.config import override
    from genrank.data.learned_days import LearnedDays
    from genrank.runs.train import load_run
    from genrank.runs.warm_start import following

    config = recipes.recipe(recipe or DEFAULT)
    if begin is not None:
        theirs = load_run(begin)[0]
        config = following(config if recipe else theirs, begin)
    return override(replace(config, seed=seed, days=days or LearnedDays()), settings or [])
