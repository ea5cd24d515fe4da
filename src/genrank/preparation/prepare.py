"""From an exposure log to a prepared folder: the order of the steps, and the manifest.

The folder's contract is in docs/architecture.md. Relational steps are Ibis expressions (staging, survey); what is per
user is NumPy on one bucket of users at a time (exposures, fitting, writing).
"""

import functools
import operator
import platform
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from genrank import __version__
from genrank.data.integrity import hash_folder
from genrank.data.manifest import FILE_NAME, DataWarning, Manifest, SplitTimes
from genrank.data.tables import FeatureTable
from genrank.folders import new_folder, refuse_occupied
from genrank.preparation.buckets import Buckets, arrange_buckets, choose_num_buckets, load_bucket
from genrank.preparation.engine import Column, Engine, EngineName, Expression
from genrank.preparation.engines import ENGINES, check_engine, open_engine
from genrank.preparation.entities import EntityWriter
from genrank.preparation.feature_checks import feature_warnings
from genrank.preparation.fitting import Fitted, fit, split_times
from genrank.preparation.joining import repeated_exposures
from genrank.preparation.logs import Relations, Source, WrongTypeError, check_side_tables, typed_columns
from genrank.preparation.point_in_time import with_duration_groups, write_statistics
from genrank.preparation.staging import Staging, stage
from genrank.preparation.summary import bare, check_classes, data_spec, one_class_tasks, order_warnings, total_counts
from genrank.preparation.survey import Findings, drop_reasons, explain_wrong_type, survey
from genrank.preparation.time_checks import days_of, has_placeholders, time_warnings
from genrank.preparation.value_checks import check_values
from genrank.preparation.writing import BucketCounts, count_bucket, write_bucket
from genrank.schema import LogSchema, Owner

Report = Callable[[str], None]
OWNERS: tuple[Owner, Owner] = ("item", "user")


@dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """How a log is prepared; nothing here changes what is learned from it."""

    engine: EngineName = "duckdb"
    master: str | None = None  # of Spark, as in local[2] or spark://host:7077; None: this machine
    memory_limit: str | None = None  # of the engine, as in "4GB"; None: half of the machine's memory
    threads: int | None = None  # None: all cores
    num_buckets: int | None = None  # users are spread over so many files; None: by the size of the log

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise ValueError(f"engine is {self.engine!r}; it must be one of {', '.join(ENGINES)}")
        if self.master is not None and self.engine != "spark":
            raise ValueError(f"master is {self.master!r}, but the engine is {self.engine!r}; set engine to 'spark'")
        if self.memory_limit is not None and not re.fullmatch(r"[0-9.]+ ?[KMGT]i?B", self.memory_limit):
            raise ValueError(f"memory_limit is {self.memory_limit!r}; it must be a size, as in 4GB or 512MiB")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads is {self.threads}; it must be at least 1")
        if self.num_buckets is not None and not 1 <= self.num_buckets <= 9999:
            raise ValueError(f"num_buckets is {self.num_buckets}; it must be 1 to 9999")


def prepare(
    source: Source,
    *,
    out: Path,
    options: PrepareOptions | None = None,
    report: Report = lambda _: None,
) -> Manifest:
    """Prepares the log of `source` into the new folder `out`; `report` is told of progress in lines of text.

    Raises an InputError of one line for what the user can fix; then nothing is left behind.
    """
    options = options or PrepareOptions()
    check_engine(options.engine)
    refuse_occupied(out)
    with new_folder(out) as folder:
        with TemporaryDirectory(prefix=".work-", dir=folder) as scratch:
            preparation = _Preparation(source=source, out=folder, scratch=Path(scratch), options=options, report=report)
            manifest = preparation.run()
        manifest = replace(manifest, files=hash_folder(folder, but=FILE_NAME))
        manifest.save(folder)
    report(f"wrote {out}: {manifest.counts.exposures:,} exposures of {manifest.counts.users:,} users")
    return manifest


@dataclass(frozen=True, kw_only=True)
class _Preparation:
    source: Source
    out: Path
    scratch: Path
    options: PrepareOptions
    report: Report

    def run(self) -> Manifest:
        """The steps in their order; returns the manifest without files."""
        options = self.options
        for name in ("vocab", "embeddings", "timelines"):
            (self.out / name).mkdir()
        limits = {"master": options.master, "memory_limit": options.memory_limit}
        engine = open_engine(options.engine, self.scratch / "spill", threads=options.threads, **limits)
        with closing(engine):
            self.report("reading the log")
            relations = self.source.read(engine, self.source.schema)
            schema = relations.schema_of(self.source.schema)
            kept, typed, findings = self._look(engine, relations, schema)
            # An exposure's place in the log: the last thing that orders exposures of one request.
            staging = stage(engine, relations, kept.select(**typed, row=engine.place()), schema)
            self.report(f"numbered {staging.items.num_rows - 1:,} items and {staging.users.num_rows - 1:,} users")
            num_buckets = options.num_buckets or choose_num_buckets(staging.num_rows)
            buckets = arrange_buckets(
                engine, staging, schema, self.scratch, num_buckets=num_buckets, report=self.report
            )
            split = split_times(schema, buckets.times, buckets.first_time, buckets.last_time)
            schema, left_out = self._learnable(buckets, schema, split)
            fitted = _fit(buckets, staging, schema, split)
            log = functools.partial(_raw_log, kept, typed)
            writer = EntityWriter(engine=engine, schema=schema, relations=relations, log=log, folder=self.source.folder)
            entities = [
                writer.write("item", staging.items, fitted.item_count, self.out),
                writer.write("user", staging.users, fitted.user_count, self.out),
            ]
            threads, versions = engine.threads, engine.versions()
        for name, vocabulary in fitted.vocabularies.items():
            vocabulary.write(self.out / "vocab" / f"{bare(name)}.parquet")
        counts = self._write_timelines(buckets, schema, fitted, split, threads)
        spec = data_spec(schema, fitted, entities)
        items, users = (FeatureTable.load(self.out, owner, spec) for owner in OWNERS)
        spec, rates = with_duration_groups(spec, buckets, schema, items, split), {}
        if schema.statistics.enabled:
            rates = write_statistics(buckets, schema, items, split, self.out, report=self.report)
        edges = {bare(name): boundaries for name, boundaries in fitted.boundaries.items()}
        return Manifest(
            genrank_version=__version__,
            versions={"python": platform.python_version(), **versions},
            schema=schema,
            spec=spec,
            base_rates=rates,
            split=split,
            counts=total_counts(counts, users=staging.users.num_rows - 1, items=staging.items.num_rows - 1),
            boundaries=functools.reduce(operator.or_, (part.boundaries for part in entities), edges),
            dropped=findings.dropped | ({"duplicate": buckets.num_duplicates} if buckets.num_duplicates else {}),
            late_actions=buckets.num_late,
            warnings=(
                *left_out,
                *relations.warnings,
                *findings.warnings,
                *staging.warnings,
                *(warning for part in entities for warning in part.warnings),
                *order_warnings(buckets, schema),
                *check_classes(counts),
                *feature_warnings(buckets, schema, {"item": items, "user": users}, split),
            ),
            files={},
            source=self.source.description | {"rows": findings.rows},
        )

    def _look(
        self, engine: Engine, relations: Relations, schema: LogSchema
    ) -> tuple[Expression, dict[str, Column], Findings]:
        """The rows to keep, their typed columns, and what was found."""
        exposures, now = relations.exposures, int(time.time())
        try:
            typed = typed_columns(exposures, schema)
            check_side_tables(relations, schema)
        except WrongTypeError as problem:
            raise explain_wrong_type(engine, problem) from None
        days = days_of(engine, exposures, typed["time"])
        reasons = drop_reasons(exposures, typed, schema, now, self.source.period, placeholders=has_placeholders(days))
        findings = survey(engine, exposures, typed, schema, reasons)
        self.report(f"read {findings.rows:,} rows")
        if findings.dropped:
            exposures = exposures.filter(~functools.reduce(operator.or_, reasons.values()))
        more = check_values(engine, exposures, schema)
        more += time_warnings(engine, relations.exposures, schema, days, now)
        more += repeated_exposures(engine, exposures, typed, schema, findings.rows)
        return exposures, typed, replace(findings, warnings=(*findings.warnings, *more))

    def _learnable(self, buckets: Buckets, schema: LogSchema, split: SplitTimes) -> tuple[LogSchema, list[DataWarning]]:
        """The schema without optional tasks that have one class only in training, and what was left out."""
        optional = set(self.source.optional_tasks) & {task.name for task in schema.tasks}
        if not optional:
            return schema, []
        counts = [count_bucket(bucket, schema, split) for bucket in buckets]
        poor = [name for name in one_class_tasks(counts, part=0) if name in optional]
        tasks = tuple(task for task in schema.tasks if task.name not in poor)
        if not any(task.kind == "binary" for task in tasks):
            return schema, []
        counted = tuple(name for name in schema.statistics.tasks if name not in poor)
        enabled = schema.statistics.enabled and bool(counted or not schema.statistics.tasks)  # no name means all
        schema = replace(schema, statistics=replace(schema.statistics, tasks=counted, enabled=enabled))
        warnings = [
            DataWarning(kind="tasks", message=f"task {name!r} is left out: training has one class only")
            for name in poor
        ]
        return replace(schema, tasks=tasks), warnings

    def _write_timelines(
        self, buckets: Buckets, schema: LogSchema, fitted: Fitted, split: SplitTimes, threads: int
    ) -> list[BucketCounts]:
        def write(number: int) -> BucketCounts:
            bucket = load_bucket(buckets.paths[number])
            path = self.out / "timelines" / f"bucket={number:04d}" / "part-0.parquet"
            write_bucket(bucket, schema, fitted, path)
            return count_bucket(bucket, schema, split)

        self.report("writing timelines")
        with ThreadPoolExecutor(max_workers=min(threads, 4)) as pool:  # each holds a bucket in memory
            return list(pool.map(write, range(len(buckets.paths))))


def _fit(buckets: Buckets, staging: Staging, schema: LogSchema, split: SplitTimes) -> Fitted:
    return fit(
        buckets,
        schema,
        values=staging.categories | buckets.multi_values,
        num_rows={"user": staging.users.num_rows, "item": staging.items.num_rows, "log": staging.num_rows},
        is_training=lambda times: times < split.valid_start,
    )


def _raw_log(kept: Expression, typed: dict[str, Column]) -> Expression:
    """The log's own columns and the typed user, item and time."""
    return kept.mutate(genrank_user=typed["user"], genrank_item=typed["item"], genrank_time=typed["time"])
