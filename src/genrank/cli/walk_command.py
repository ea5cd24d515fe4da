"""The command that walks forward over the days of a prepared folder."""

import sys
from pathlib import Path
from typing import Annotated

from typer import Option

from genrank.cli.options import A_DAY, Begin, Json, PreparedFolder, RecipeOrBegin, Seed, console, settings_of
from genrank.finite_json import json_text


def walk(
    data: PreparedFolder,
    out: Annotated[Path, Option(help="folder of the walk; finished days in it are reused", show_default=False)],
    recipe: RecipeOrBegin = None,
    seed: Seed = 0,
    first: Annotated[
        str | None,
        Option(
            metavar="DAY",
            help=f"the first day to learn: {A_DAY} (default: where --from ends, or the log's first)",
            show_default=False,
        ),
    ] = None,
    last: Annotated[
        str | None,
        Option(metavar="DAY", help="the last day to learn (default: the log's last but one)", show_default=False),
    ] = None,
    begin: Begin = None,
    settings: Annotated[list[str] | None, settings_of("a setting of the recipe, as in model.width=128")] = None,
    json: Json = False,
) -> None:
    """Learn day by day, each from the one before, and judge on the next."""
    from rich.console import Console

    from genrank.cli.new_config import new_config
    from genrank.data.learned_days import day_named
    from genrank.evaluation.walk_report import walk_tables
    from genrank.runs.walk import walk
    from genrank.text_table import to_rich

    config = new_config(recipe, begin=begin, seed=seed, settings=settings)
    rows = walk(data, config, out, console(), first=day_named("--first", first), last=day_named("--last", last))
    if json:
        sys.stdout.write(json_text({"days": rows}))
    else:
        Console().print(*map(to_rich, walk_tables(rows)))
    console().print(f"figures: {out / 'walk.json'}; chart: {out / 'walk.svg'}")
