"""The functions that `import genrank` offers: the steps of the command line, as calls that return what they made.

    data = genrank.prepare("logs/*.parquet", schema="schema.toml", out="data")
    run = genrank.train(data, recipe="genrank-demo", out="runs/first")
    report = genrank.evaluate(run)
    ranker = genrank.load(run)
    walk = genrank.walk(data, out="walk")

Each raises the errors of genrank/errors.py, whose message is a line with the remedy, and leaves no incomplete output.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from rich.console import Console

from genrank.artifacts.bundle import load_bundle
from genrank.config import build, override
from genrank.data.learned_days import Day, LearnedDays
from genrank.data.prepared import Part, PreparedData
from genrank.errors import ConfigError
from genrank.evaluation.ranking_evaluation import Evaluation
from genrank.inference.batch_scoring import ranker_of_many, score_table
from genrank.inference.gen_ranker import GenRanker
from genrank.inference.gen_retriever import GenRetriever
from genrank.inference.published import current, is_published
from genrank.recipes import recipe as recipe_named
from genrank.recipes import siblings
from genrank.runs import train as training
from genrank.runs.evaluate_ranking import evaluate_run
from genrank.runs.evaluate_retrieval import evaluate_retrieval
from genrank.runs.run_config import RunConfig
from genrank.runs.walk import walk as walk_forward
from genrank.runs.warm_start import following
from genrank.schema import LogSchema

Paths = str | Path | Sequence[str | Path]


@dataclass(frozen=True, kw_only=True)
class Run:
    """A training run: its folder, its configuration, and the folder of the prepared data that it was trained on."""

    folder: Path
    config: RunConfig
    data: Path

    @classmethod
    def open(cls, folder: str | Path) -> "Run":
        """The run in a folder. DataError if the folder holds no run."""
        config, data = training.load_run(Path(folder))
        return cls(folder=Path(folder), config=config, data=data)

    @property
    def retrieves(self) -> bool:
        """Whether its model is a retriever, which searches all items, rather than a ranker."""
        return self.config.model.retrieves


def prepare(
    logs: Paths,
    *,
    out: str | Path | None = None,
    extend: str | Path | None = None,
    schema: str | Path | LogSchema | None = None,
    source: str | None = None,
    settings: Sequence[str] = (),
    engine: str = "duckdb",
    master: str | None = None,
    spark_conf: Mapping[str, str] | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> PreparedData:
    """Read a log, write the prepared folder `out`, and open it; or add the log's days to the folder `extend`.

    logs: files, folders or patterns such as `logs/day=*/*.parquet`; with Spark also addresses such as s3://bucket/logs
    and table:NAME. schema: a TOML file or a LogSchema. source: instead
    of a schema, the name of a public data set in its published form. settings: "path=value", as --set takes them.
    engine: "duckdb" or "spark", with equal results. master: Spark's, as in "local[2]" or "spark://host:7077".
    spark_conf: Spark's settings, as in {"spark.executor.memory": "8g"}.
    report: called with each line of progress. Raises SchemaError, ConfigError, LogError and OutputError.
    """
    from genrank.preparation.extending import extend as extend_folder
    from genrank.preparation.prepare import PrepareOptions
    from genrank.preparation.prepare import prepare as prepare_source
    from genrank.preparation.sources.files import files
    from genrank.preparation.sources.public_data import published

    conf = [f"{key}={value}" for key, value in (spark_conf or {}).items()]
    options = build(PrepareOptions, {"engine": engine, "master": master, "spark_conf": conf}, where="prepare")
    paths = [logs] if isinstance(logs, str | Path) else list(logs)
    if (schema is None) == (source is None):
        raise ConfigError("prepare: expected a schema or the name of a source; give one of the two")
    if schema is not None:
        found = files(paths, schema=schema if isinstance(schema, LogSchema) else Path(schema))
    elif len(paths) == 1:
        found = published(str(source), Path(paths[0]))
    else:
        raise ConfigError(f"prepare: source={source!r} reads one folder, found {len(paths)} paths; give that folder")
    found = found.with_settings(settings)
    if out is not None and extend is None:
        prepare_source(found, out=Path(out), options=options, report=report)
        return PreparedData.load(Path(out))
    if extend is not None and out is None:
        extend_folder(found, Path(extend), options=options, report=report)
        return PreparedData.load(Path(extend))
    raise ConfigError(
        "prepare: expected the folder to write (out), or the one to add days to (extend); give one of both"
    )


def train(
    data: str | Path | PreparedData,
    *,
    out: str | Path,
    recipe: str | RunConfig | None = None,
    seed: int = 0,
    settings: Sequence[str] = (),
    until: Day = None,
    days: str = "",
    test: Day = None,
    begin_from: str | Path | Run | None = None,
    resume: bool = False,
    console: Console | None = None,
) -> Run:
    """Train a ranker or a retriever into the run folder `out`.

    recipe: a name (`genrank recipes` lists them), trained with `seed`, or a RunConfig, which has a seed; None:
    genrank-small, or that of `begin_from`. settings: "path=value". until, days ("A..B"), test: what to learn from and
    to judge on, as `genrank train` takes them; a day is a date or seconds since the epoch. begin_from: a finished run
    whose weights and optimizer state are the start. resume: if `out` holds a run, continue from its last checkpoint,
    with its configuration; the weights will equal those of an uninterrupted run. console: where progress is shown;
    None: nowhere. Raises ConfigError, DataError, BundleError, OutputError and TrainingDiverged.
    """
    out, chosen = Path(out), LearnedDays.of(days=days, until=until, test=test)
    if not (resume and (out / "config.json").exists()):
        config = _config(recipe, None if begin_from is None else _run(begin_from), seed)
        config = replace(config, days=chosen) if chosen else config
        training.start_run(_folder(data), override(config, settings), out)
    elif settings or chosen or begin_from is not None:
        raise ConfigError(
            "settings, days and begin_from can't be combined with resume: a resumed run keeps its configuration; start "
            "a new run"
        )
    training.train(
        out,
        console or Console(quiet=True),
        resume=resume,
        displays=console is not None,
        siblings=siblings,
    )
    return Run.open(out)


def evaluate(
    run: str | Path | Run, *, data: str | Path | PreparedData | None = None, part: Part = "test"
) -> Evaluation | dict[str, Any]:
    """Evaluate the newest bundle of a run on a part of its data, or of `data`.

    Writes evaluation.json, and report.html for a ranker. Returns the Evaluation of a ranker, and of a retriever the
    figures that `genrank evaluate --json` prints.
    """
    run = _run(run)
    folder = None if data is None else _folder(data)
    if run.retrieves:
        return evaluate_retrieval(run.folder, data=folder, part=part)
    return evaluate_run(run.folder, data=folder, part=part)


@dataclass(frozen=True, kw_only=True)
class Walk:
    """A walk forward: its folder, and by day what `genrank walk --json` prints: `learned`, `judged` and the figures.

    The figures are `tasks`, those of each task of a ranker, or `retrieval`, those of a retriever.
    """

    folder: Path
    days: list[dict[str, Any]]

    def run(self, learned: str) -> Run:
        """The run that has learned until the end of a day, a date. BundleError if the walk has none."""
        return Run.open(self.folder / "days" / learned)


def walk(
    data: str | Path | PreparedData,
    *,
    out: str | Path,
    recipe: str | RunConfig | None = None,
    seed: int = 0,
    settings: Sequence[str] = (),
    first: Day = None,
    last: Day = None,
    begin_from: str | Path | Run | None = None,
    console: Console | None = None,
) -> Walk:
    """Learn day by day, each day from the one before, and judge each model on the next day before it is learned.

    first, last: the days to learn, both included; a day is a date or seconds since the epoch. None: the log's first,
    or where `begin_from` has stopped learning, and the log's last but one. Other arguments: as of `train`. A walk of
    the same settings in `out` goes on. Raises as `train` does, and MissingExtraError if matplotlib is not installed.
    """
    config = override(_config(recipe, None if begin_from is None else _run(begin_from), seed), settings)
    days = walk_forward(_folder(data), config, Path(out), console or Console(quiet=True), first=first, last=last)
    return Walk(folder=Path(out), days=days)


def load(
    run: str | Path | Run, *, data: str | Path | PreparedData | None = None, device: str = "cpu"
) -> GenRanker | GenRetriever:
    """Load the ranker or retriever of a run, a bundle or a folder of published models.

    data: the prepared folder with the users' histories; None: the one that the run was trained on.
    """
    path = run.folder if isinstance(run, Run) else Path(run)
    path = path / current(path) if is_published(path) else path
    folder = None if data is None else _folder(data)
    kind = GenRetriever if load_bundle(path).config.model.retrieves else GenRanker
    return kind.load(path, data=folder, device=device)


def score(
    run: str | Path | Run | GenRanker,
    table: Any,
    *,
    data: str | Path | PreparedData | None = None,
    value: Mapping[str, float] | None = None,
    device: str = "cpu",
) -> pa.Table:
    """Score the rows of `table`: an Arrow table, or what pyarrow.table takes, such as a dict of lists or a DataFrame.

    One row per candidate, with `user`, `item`, optionally `time` (seconds since the epoch), `request`, and features of
    the exposure by name; the rows of a user and time are one request. Returns the same rows in the same order: these
    keys, `score_<task>` for each task, and `value`. Raises RequestError for missing columns and for rows that can't be
    scored. To score several tables faster, load a ranker once (`genrank.load`) and pass it as `run`.
    """
    if isinstance(run, GenRanker):
        ranker = run
    else:
        path, folder = run.folder if isinstance(run, Run) else Path(run), None if data is None else _folder(data)
        ranker = ranker_of_many(path, data=folder, device=device)
    rows = table if isinstance(table, pa.Table) else pa.table(table)
    return score_table(ranker, rows, value=value)


def _config(recipe: str | RunConfig | None, begin: Run | None, seed: int) -> RunConfig:
    """Of a new run: its recipe's, or that of the run which it begins from."""
    if isinstance(recipe, RunConfig):
        begun = recipe.warm_start if begin is None else replace(recipe.warm_start, run=str(begin.folder.resolve()))
        return replace(recipe, warm_start=begun)
    if begin is None:
        return replace(recipe_named(recipe or "genrank-small"), seed=seed)
    config = begin.config if recipe is None else recipe_named(recipe)
    return replace(following(config, begin.folder), seed=seed)


def _run(run: str | Path | Run) -> Run:
    return run if isinstance(run, Run) else Run.open(run)


def _folder(data: str | Path | PreparedData) -> Path:
    return data.folder if isinstance(data, PreparedData) else Path(data)
