"""Commands that make or use a run: train, evaluate, rank, score, index, retrieve.

A command imports what it needs when it runs, so that all of them start fast.
"""

import sys
from pathlib import Path
from typing import Annotated, Literal

from typer import Argument, Option

from genrank.cli.options import (
    A_DAY,
    DEVICES,
    Begin,
    Device,
    Histories,
    Json,
    Moment,
    OutFolder,
    Part,
    PreparedFolder,
    RecipeOrBegin,
    RunFolder,
    Seed,
    Value,
    console,
    ids,
    option,
    pairs,
    settings_of,
    weights_of,
)
from genrank.errors import LONGEST_SHOWN, ConfigError
from genrank.finite_json import json_text


def train(
    data: PreparedFolder,
    out: OutFolder,
    recipe: RecipeOrBegin = None,
    seed: Seed = 0,
    until: Annotated[str | None, option(f"learn what is before DAY: {A_DAY}", metavar="DAY")] = None,
    days: Annotated[str, option("learn these days only; earlier ones are history", metavar="A..B")] = "",
    test: Annotated[str | None, option("judge on DAY (default: where learning ends)", metavar="DAY")] = None,
    begin: Begin = None,
    resume: Annotated[bool, Option("--resume", help="continue from the last checkpoint in OUT")] = False,
    settings: Annotated[list[str] | None, settings_of("a setting of the recipe, as in model.width=128")] = None,
) -> None:
    """Train a recipe on prepared data."""
    from genrank.cli.new_config import new_config
    from genrank.data.learned_days import LearnedDays
    from genrank.recipes import siblings
    from genrank.runs.train import start_run, train

    progress, chosen = console(), LearnedDays.of(days=days, until=until, test=test)
    going_on = resume and (out / "config.json").exists()
    given = {"--set": settings, "--from": begin, "a choice of days": chosen}
    changed = next((name for name, value in given.items() if value), None)
    if going_on and changed:
        raise ConfigError(
            f"{changed} can't be combined with --resume: a resumed run keeps its configuration; start a new run"
        )
    if not going_on:
        start_run(data, new_config(recipe, begin=begin, seed=seed, settings=settings, days=chosen), out)
    bundle = train(out, progress, resume=going_on, siblings=siblings)
    progress.print(f"run [bold]{out}[/]: model bundle {bundle.name}. Next: genrank evaluate {out}")


def evaluate(
    run_folder: RunFolder,
    data: Annotated[Path | None, option("prepared data (default: what the run was trained on)")] = None,
    device: Annotated[str | None, option(f"{DEVICES} (default: the run's setting)")] = None,
    part: Annotated[Part, Option(help="part of the data to evaluate on")] = "test",
    trees: Annotated[bool, Option("--trees", help="also train gradient-boosted trees, as a baseline")] = False,
    json: Json = False,
) -> None:
    """Compute metrics per task and slice, and write report.html."""
    from rich.console import Console

    from genrank.evaluation.evaluation_tables import as_tables
    from genrank.runs.evaluate_ranking import evaluate_run
    from genrank.runs.train import load_run

    if load_run(run_folder)[0].model.retrieves:
        if trees:
            raise ConfigError(f"--trees is a baseline of rankers, and {run_folder} is a retriever: leave --trees out")
        _evaluate_retrieval(run_folder, data, part, device, json=json)
        return
    judged = evaluate_run(run_folder, data=data, part=part, trees=trees, device=device)
    if json:
        sys.stdout.write(json_text(judged.to_json()))
    else:
        Console().print(as_tables(judged))
    console().print(f"report: {run_folder / 'report.html'}")


def _evaluate_retrieval(run_folder: Path, data: Path | None, part: Part, device: str | None, *, json: bool) -> None:
    from rich.console import Console

    from genrank.evaluation.evaluation_tables import as_retrieval_tables
    from genrank.runs.evaluate_retrieval import evaluate_retrieval

    judged = evaluate_retrieval(run_folder, data=data, part=part, device=device)
    if json:
        sys.stdout.write(json_text(judged))
    else:
        Console().print(as_retrieval_tables(judged))


def rank(
    run_folder: RunFolder,
    user: Annotated[str, Option(show_default=False)],
    candidates: Annotated[
        str, option("""item ids, or a JSON list where ids have commas or spaces: '["a,b", " c"]'""", metavar="I,I,I")
    ],
    data: Histories = None,
    device: Device = "auto",
    time: Moment = None,
    context: Annotated[
        str, option("features of the exposure, as in device=phone, or a JSON object", metavar="NAME=VALUE,…")
    ] = "",
    value: Value = "",
    json: Json = False,
) -> None:
    """Score candidates for a user."""
    from dataclasses import asdict

    from rich.console import Console

    from genrank.cli.answer_tables import ranking_table
    from genrank.inference.gen_ranker import GenRanker
    from genrank.text_table import to_rich

    ranker = GenRanker.load(run_folder, data=data, device=device)
    weights = weights_of(value)
    ranking = ranker.rank(
        user, ids("--candidates", candidates), time=time, context=pairs("--context", context), value=weights
    )
    if json:
        sys.stdout.write(json_text(asdict(ranking)))
    else:
        Console().print(to_rich(ranking_table(ranking)))


def score(
    run_folder: RunFolder,
    candidates: Annotated[
        Path,
        Argument(
            metavar="CANDIDATES",
            help="Parquet, CSV or TSV with columns user, item, and optionally time and features of the exposure",
            show_default=False,
        ),
    ],
    out: Annotated[Path, Option(metavar="SCORES", help="file to write: .parquet, .csv or .tsv", show_default=False)],
    data: Histories = None,
    device: Device = "auto",
    value: Value = "",
    json: Annotated[bool, Option("--json", help="print counts of what was scored as JSON")] = False,
) -> None:
    """Score a file of candidates, one per row, as the service would."""
    from dataclasses import asdict

    from genrank.inference.batch_scoring import ranker_of_many, score_file

    weights = weights_of(value)
    ranker = ranker_of_many(run_folder, data=data, device=device)
    progress = console()
    with progress.status("scoring"):
        found = score_file(ranker, candidates, out, value=weights)
    if json:
        sys.stdout.write(json_text(asdict(found) | {"out": str(out)}))
    lines = [
        f"scored {found.rows:,} candidates of {found.requests:,} requests by model {found.model_version}, see {out}"
    ]
    if found.unknown_users or found.unknown_items:
        lines.append(
            f"unknown to the model: the user of {found.unknown_users:,} rows, the item of {found.unknown_items:,}"
        )
    if found.missing_context:
        lines.append(f"no columns for these features, so unknown to the model: {', '.join(found.missing_context)}")
    if found.unused:
        lines.append(f"columns that are not used: {', '.join(found.unused)}")
    progress.print(*lines, sep="\n", highlight=False, markup=False, soft_wrap=True)


def index(
    run_folder: RunFolder,
    data: Annotated[Path | None, option("prepared data with the items (default: the run's data)")] = None,
) -> None:
    """Embed all items with a retriever's run, so that they can be retrieved."""
    from genrank.inference.gen_retriever import build_index

    folder = build_index(run_folder, data=data)
    console().print(f"index {folder}. Next: genrank retrieve {run_folder} --user U")


def retrieve(
    run_folder: RunFolder,
    user: Annotated[str, Option(show_default=False)],
    k: Annotated[int, Option("--k", help="number of items")] = 500,
    data: Histories = None,
    time: Moment = None,
    exclude: Annotated[str, option("items to leave out, or a JSON list of them", metavar="I,I,I")] = "",
    without: Annotated[
        list[str] | None,
        option("leave out items with these values of a feature: A,B or a JSON list", metavar="NAME=A,B"),
    ] = None,
    precision: Annotated[Literal["float32", "bfloat16", "int8"], Option(help="of the first look")] = "int8",
    json: Json = False,
) -> None:
    """Retrieve the best items of the whole catalogue for a user."""
    from dataclasses import asdict

    from rich.console import Console

    from genrank.cli.answer_tables import found_table
    from genrank.inference.gen_retriever import GenRetriever
    from genrank.text_table import to_rich

    left_out = {}
    for given in without or []:
        name, separator, values = given.partition("=")
        if not separator:
            raise ConfigError(f"--without {given[:LONGEST_SHOWN]}: expected NAME=VALUE,VALUE")
        left_out[name] = ids("--without", values)
    retriever = GenRetriever.load(run_folder, data=data, precision=precision)
    found = retriever.retrieve(user, k=k, time=time, without=left_out, exclude=ids("--exclude", exclude))
    if json:
        sys.stdout.write(json_text(asdict(found)))
    else:
        Console().print(to_rich(found_table(found)))
