"""Commands that measure: studies of the paper's claims, their pages, and speed on this machine.

A command imports what it needs when it runs, so that all of them start fast.
"""

import sys
from pathlib import Path
from typing import Annotated, Any

from typer import Option

from genrank.cli.options import Json, PreparedFolder, Seed, argument, console, option, settings_of
from genrank.finite_json import json_text


def study(
    name: Annotated[str, argument("NAME", "table1, mechanisms, modules, features, biases, cold-start, …")],
    data: PreparedFolder,
    out: Annotated[Path, option("folder for cells and pages; cells in it are reused")],
    seeds: Annotated[int, Option(help="number of seeds")] = 3,
    minutes: Annotated[float, Option(help="time budget, 0 for none; a later call adds the missing cells")] = 0.0,
    size: Annotated[str, Option(help="size of the recipes: small, full, paper")] = "small",
    jobs: Annotated[int, Option(help="cells computed at the same time, each in a separate process")] = 1,
    only: Annotated[list[str] | None, option("only these variants, and the baseline", metavar="A;B")] = None,
    grid: Annotated[
        list[str] | None,
        option(
            "settings to tune, or none (default: learning rate, sparse learning rate, batch; grows at its edges)",
            metavar="PATH=A,B,C",
        ),
    ] = None,
    trials: Annotated[int, Option(help="most tuning trials of each ranker")] = 15,
    settings: Annotated[list[str] | None, settings_of("a setting of every recipe, as in training.epochs=1")] = None,
    json: Json = False,
) -> None:
    """Repeat a table of the paper on prepared data, with seeds and intervals."""
    from rich.console import Console

    from genrank.config import build
    from genrank.studies.pages import summary, write_pages
    from genrank.studies.run_study import StudyOptions, run_study
    from genrank.studies.study_tables import failures, standing

    given: dict[str, Any] = {"name": name, "seeds": seeds, "minutes": minutes, "size": size, "jobs": jobs}
    given |= {"trials": trials, "settings": settings or []}
    given["only"] = [each.strip() for each in ";".join(only or []).split(";") if each.strip()]
    if grid:
        given["grid"] = grid
    progress = console()
    result = run_study(data, out, build(StudyOptions, given, where="study"), progress)
    pages = write_pages(out, result)
    if json:
        sys.stdout.write(json_text(result))
    else:
        Console().print(*summary(result), *standing(result), *failures(result), sep="\n", highlight=False, markup=False)
    progress.print("pages: " + ", ".join(str(page) for page in pages), highlight=False, soft_wrap=True)


def results(
    folder: Annotated[Path, argument("FOLDER", "folder of studies")],
    judge: Annotated[
        bool, Option("--judge", help="first compute all verdicts again from the cells, and write each study's JSON")
    ] = False,
    pack: Annotated[
        bool, Option("--pack", help="put each data set's cells into one compressed file, and print no page")
    ] = False,
    pages: Annotated[
        bool,
        Option(
            "--pages",
            help="write FOLDER.md with the verdicts and FOLDER/NAME.md of each data set, instead of printing one page",
        ),
    ] = False,
) -> None:
    """Print all studies in a folder and below it, as Markdown."""
    from genrank.studies.again import judge_folder_again
    from genrank.studies.cell_archive import pack_studies
    from genrank.studies.overview import overview, write_overview

    if judge:
        judge_folder_again(folder)
    if pack:
        for packed in pack_studies(folder):
            sys.stdout.write(f"{packed.archive}: {packed.num_cells} cells, {packed.num_added} of them added\n")
    if pages:
        sys.stdout.writelines(f"{path}\n" for path in write_overview(folder))
    elif not pack:
        sys.stdout.write(overview(folder))


def bench(
    name: Annotated[
        str, argument("NAME", "attention, training, data, optimizer, scoring, serve, decomposed, search, retrieve")
    ],
    size: Annotated[str, Option(help="tiny, small (width 256), paper (768)")] = "small",
    minutes: Annotated[float | None, option("about how long to measure (default: 1 to 6, by benchmark)")] = None,
    seed: Seed = 0,
    run_folder: Annotated[Path | None, option("serve: the run to serve (default: a small new one)", "--run")] = None,
    json: Json = False,
) -> None:
    """Measure speed on this machine."""
    from rich.console import Console

    from genrank.bench.bench_options import BenchOptions
    from genrank.bench.bench_tables import as_tables
    from genrank.bench.benches import run_bench
    from genrank.config import build

    given = {"name": name, "size": size, "minutes": minutes, "seed": seed, "run": run_folder}
    with console().status("warming up") as status:
        result = run_bench(build(BenchOptions, given, where="bench"), status.update)
    if json:
        sys.stdout.write(json_text(result))
    else:
        Console().print(as_tables(result))
