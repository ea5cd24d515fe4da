"""Simulation and preparation with progress on the terminal, and `genrank demo`, which runs all steps."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from genrank.cli.answer_tables import ranking_table
from genrank.cli.preparing import LogArguments, prepare_with_progress
from genrank.config import override
from genrank.errors import MissingExtraError
from genrank.evaluation.evaluation_tables import as_tables
from genrank.evaluation.page import require
from genrank.folders import refuse_occupied
from genrank.inference.gen_ranker import GenRanker
from genrank.recipes import recipe
from genrank.runs.evaluate_ranking import evaluate_run
from genrank.runs.train import start_run, train
from genrank.simulation import SimulationSummary, WorldConfig, simulate
from genrank.text_table import to_rich

NO_REPORT = "For the report as a page: pip install 'genrank\\[report]', then genrank evaluate."


def simulate_with_progress(out: Path, settings: Sequence[str], console: Console) -> SimulationSummary:
    """Simulate with a progress bar, then print a summary."""
    config = override(WorldConfig(), settings)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("simulating", total=1.0)
        summary = simulate(config, out, progress=lambda share: progress.update(bar, completed=share))
    rates = ", ".join(f"{task} {rate:.1%}" for task, rate in summary.rates.items())
    console.print(
        f"{summary.num_exposures:,} exposures in {summary.num_requests:,} requests over {summary.num_items:,} items "
        f"({rates}), {summary.exposures_per_second:,.0f} a second → [bold]{out}[/]",
        highlight=False,
    )
    return summary


def demo(out: Path, console: Console, *, seed: int = 0) -> None:
    """Simulate a feed, prepare its log, train GenRank, evaluate and rank; everything is written below `out`."""
    refuse_occupied(out)
    began = time.monotonic()
    feed, data, run = out / "feed", out / "data", out / "run"
    console.rule("[bold]1. A feed's exposure log", align="left")
    console.print(
        "Users with drifting interests are shown items by an imperfect policy; each action's true probability is known."
    )
    simulate_with_progress(feed, [f"seed={seed}"], console)
    console.rule("[bold]2. From the log to timelines", align="left")
    console.print(f"As with your own logs: genrank prepare {feed}/exposures --schema {feed}/schema.toml --out {data}")
    prepare_with_progress(
        LogArguments(logs=[feed / "exposures"], schema=feed / "schema.toml"), out=data, console=console
    )
    console.rule("[bold]3. Training GenRank", align="left")
    console.print(f"genrank train {data} --recipe genrank-demo --out {run}")
    start_run(data, replace(recipe("genrank-demo"), seed=seed), run)
    train(run, console)
    console.rule("[bold]4. How good is it?", align="left")
    console.print(f"On the log's last days: genrank evaluate {run}")
    draws = draws_pages()
    console.print(as_tables(evaluate_run(run, report=draws)))
    console.rule("[bold]5. Ranking candidates", align="left")
    ranker = GenRanker.load(run)
    user, items = _someone(ranker)
    console.print(f"As in: genrank rank {run} --user {user} --candidates {','.join(items)}")
    when = ranker.bundle.manifest.split.last_time + 1
    hours = ((when - ranker.items.first_time[ranker.items.find(items)]) / 3600).tolist()
    ranking = ranker.rank(user, items, context={"device": "phone", "item_age": hours})
    console.print(to_rich(ranking_table(ranking)))
    console.rule("[bold]Done", align="left")
    report = f"Open in a browser: [bold]{(run / 'report.html').resolve()}[/]"
    console.print(
        f"In {time.monotonic() - began:.0f} s. {report if draws else NO_REPORT}\n"
        f"The schema to copy for your own logs: {feed / 'schema.toml'}; all settings of the run: {run / 'config.json'}",
        highlight=False,
    )


def draws_pages() -> bool:
    """Whether the packages that draw report.html are installed."""
    try:
        require(extra="report")
    except MissingExtraError:
        return False
    return True


def _someone(ranker: GenRanker) -> tuple[str, list[str]]:
    """The most active user, and the newest eight items."""
    user = int(ranker.users.train_count.argmax())
    newest = ranker.items.first_time.argsort()[::-1][:8]
    return str(ranker.users.ids[user]), [str(ranker.items.ids[int(row)]) for row in newest]
