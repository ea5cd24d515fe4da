"""Commands that come before training: doctor, demo, simulate, schema, prepare, recipes.

A command imports what it needs when it runs, so that all of them start fast.
"""

import sys
from pathlib import Path
from typing import Annotated

from typer import Option

from genrank.cli.options import Json, PreparedFolder, Seed, argument, console, day_of, option, seconds_of, settings_of
from genrank.errors import ConfigError
from genrank.finite_json import json_text


def doctor(json: Json = False) -> None:
    """Show versions, device and threads, what is slow here and how to fix it."""
    from rich.console import Console

    from genrank.cli.doctor import examine, findings

    if json:
        sys.stdout.write(json_text(findings()))
    else:
        Console().print(examine())


def demo(
    out: Annotated[Path, Option(help="folder for everything that the demo makes")] = Path("demo"), seed: Seed = 0
) -> None:
    """Run all steps on a simulated feed, in minutes on two CPU cores."""
    from genrank.cli.demo import demo

    demo(out, console(), seed=seed)


def simulate(
    out: Annotated[Path, argument("OUT", "folder to write; it must be new")],
    users: Annotated[int | None, option("number of users")] = None,
    days: Annotated[int | None, option("number of days")] = None,
    seed: Seed = 0,
    settings: Annotated[list[str] | None, settings_of("a setting of the world, as in num_topics=40")] = None,
) -> None:
    """Write a simulated exposure log with known click probabilities."""
    from genrank.cli.demo import simulate_with_progress

    given = {"num_users": users, "num_days": days, "seed": seed}
    named = [f"{name}={value}" for name, value in given.items() if value is not None]
    simulate_with_progress(out, [*named, *(settings or [])], console())


def prepare(
    logs: Annotated[
        list[str],
        argument("LOGS…", "Parquet, CSV or TSV files, or a folder; for Spark also addresses, as in s3://bucket/logs"),
    ],
    out: Annotated[Path | None, option("folder to write; it must be new")] = None,
    extend: Annotated[
        Path | None, option("instead of --out: add the logs' days to this prepared folder", metavar="DATA")
    ] = None,
    late: Annotated[
        str, Option(help="with --extend: how long before its end a row may be from; earlier ones are dropped")
    ] = "2d",
    schema: Annotated[Path | None, option("what the columns mean, in TOML")] = None,
    source: Annotated[
        str | None,
        option("a public data set as published, instead of --schema: movielens, mind, kuairand, taobao, sequences"),
    ] = None,
    engine: Annotated[str | None, option("duckdb or spark, with equal results (default: duckdb)")] = None,
    master: Annotated[
        str | None, option("Spark's master, as in local[2] or spark://host:7077 (default: this machine)")
    ] = None,
    spark_conf: Annotated[
        list[str] | None, option("a setting of Spark, as in spark.executor.memory=8g", metavar="KEY=VALUE")
    ] = None,
    memory_limit: Annotated[str | None, option("memory of the engine, as in 4GB (default: half of the memory)")] = None,
    threads: Annotated[int | None, option("threads of the engine (default: all cores)")] = None,
    buckets: Annotated[
        int | None, option("with --out: users are spread over so many files (default: by the log's size)")
    ] = None,
    days_per_part: Annotated[
        int | None,
        option("with --out: a file holds so many days (default: by the exposures of a day; 1 where days are added)"),
    ] = None,
    settings: Annotated[list[str] | None, settings_of("a setting of the schema, as in split.test_fraction=0.2")] = None,
) -> None:
    """Turn exposure logs into a prepared folder for training, or add days to one."""
    from genrank.cli.preparing import LogArguments, extend_with_progress, prepare_with_progress

    if (schema is None) == (source is None):
        raise ConfigError(
            "prepare: give either --schema S.toml for your own logs or --source NAME for a public data set"
        )
    log = LogArguments(logs=logs, schema=schema, source=source, settings=settings or [])
    options = {"engine": engine, "master": master, "memory_limit": memory_limit, "threads": threads}
    options["spark_conf"] = spark_conf or None  # type: ignore[assignment]
    if out is not None and extend is None:
        layout = {"num_buckets": buckets, "days_per_part": days_per_part}
        prepare_with_progress(log, out=out, options=options | layout, console=console())
    elif extend is not None and out is None:
        extend_with_progress(log, extend, late=seconds_of("--late", late), options=options, console=console())
    else:
        raise ConfigError("prepare: give either --out for a new folder or --extend DATA to add days to a prepared one")


def expire(
    data: PreparedFolder,
    before: Annotated[str, option("the first day (UTC) to keep, as in 2026-11-30", metavar="DAY")],
) -> None:
    """Remove the oldest days of a prepared folder."""
    from genrank.preparation.extending import expire

    manifest = expire(data, before=day_of("--before", before))
    console().print(f"{manifest.counts.exposures:,} exposures are left in {data}", highlight=False)


def schema(
    logs: Annotated[list[Path], argument("LOG…", "files or a folder, as for prepare; only the beginning is read")],
    json: Annotated[bool, Option("--json", help="the proposed settings as JSON, without the reasons")] = False,
) -> None:
    """Look at a log, and propose the schema that genrank prepare needs."""
    from genrank.documents import parse_toml
    from genrank.preparation.proposing import propose_schema

    found = propose_schema(logs)
    if json:
        sys.stdout.write(json_text({"schema": parse_toml(found.text), "missing": list(found.missing)}))
    else:
        sys.stdout.write(found.text)
    if found.missing:
        names = ", ".join(found.missing)
        console().print(
            f"no column found for: {names}; fill in these lines of [columns]", highlight=False, markup=False
        )


def recipes(
    show: Annotated[str | None, option("all settings of this recipe, as --set takes them", metavar="NAME")] = None,
    json: Json = False,
) -> None:
    """List the recipes that can be trained, or the settings of one."""
    from rich.console import Console

    from genrank.cli.recipe_list import described, recipes_table, setting_lines, settings_of
    from genrank.text_table import to_rich

    if show is None:
        if json:
            sys.stdout.write(json_text(described()))
        else:
            Console().print(to_rich(recipes_table()))
    elif json:
        sys.stdout.write(json_text(settings_of(show)))
    else:
        sys.stdout.write("".join(f"{line}\n" for line in setting_lines(show)))
