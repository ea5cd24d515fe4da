"""From an exposure log to a prepared folder: the order of the steps, and the manifest.

The folder's contract is in docs/architecture.md. Relational steps are Ibis expressions (staging, survey); steps per
user are NumPy on one bucket of users at a time (exposures, fitting, writing).
"""

import functools
import operator
import platform
import re
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from genrank import __version__
from genrank.data.counted_features import counted_features
from genrank.data.integrity import hash_folder, remember_hashes
from genrank.data.manifest import FILE_NAME, DataWarning, FolderLayout, Manifest, SplitTimes
from genrank.data.tables import FeatureTable
from genrank.folders import new_folder, refuse_occupied
from genrank.preparation.admission import DAY, Periods
from genrank.preparation.buckets import Buckets, arrange_buckets, choose_days_per_part, choose_num_buckets
from genrank.preparation.engine import Engine, EngineName
from genrank.preparation.engines import ENGINES, check_engine, open_engine
from genrank.preparation.entities import EntityWriter
from genrank.preparation.feature_checks import feature_warnings
from genrank.preparation.fitting import split_times
from genrank.preparation.log_reading import read_log
from genrank.preparation.logs import Source
from genrank.preparation.point_in_time import with_duration_groups, write_statistics
from genrank.preparation.storing import fit_log, move_statistics, write_timelines, write_vocabularies
from genrank.preparation.summary import bare, check_classes, data_spec, one_class_tasks, order_warnings, total_counts
from genrank.preparation.writing import count_bucket
from genrank.schema import LogSchema, Owner

Report = Callable[[str], None]
OWNERS: tuple[Owner, Owner] = ("item", "user")


@dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """Settings of preparation; none of them has an effect on the models trained with its result."""

    engine: EngineName = "duckdb"
    master: str | None = None  # of Spark, as in local[2] or spark://host:7077; None: this machine
    spark_conf: tuple[str, ...] = ()  # settings of Spark, as in "spark.executor.memory=8g"
    memory_limit: str | None = None  # of the engine, as in "4GB"; None: half of the machine's memory
    threads: int | None = None  # None: all cores
    num_buckets: int | None = None  # number of buckets of users; None: by the size of the log
    days_per_part: int | None = None  # days per file; None: by the exposures of a day

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise ValueError(f"engine is {self.engine!r}; it must be one of {', '.join(ENGINES)}")
        if self.master is not None and self.engine != "spark":
            raise ValueError(f"master is {self.master!r}, but the engine is {self.engine!r}; set engine to 'spark'")
        if self.spark_conf and self.engine != "spark":
            raise ValueError(f"spark_conf is set, but the engine is {self.engine!r}; set engine to 'spark'")
        for setting in self.spark_conf:
            if not re.fullmatch(r"spark\.[^=\s]+=.*", setting):
                raise ValueError(f"spark_conf has {setting!r}; it must be KEY=VALUE, as in spark.executor.memory=8g")
        if self.memory_limit is not None and not re.fullmatch(r"[0-9.]+ ?[KMGT]i?B", self.memory_limit):
            raise ValueError(f"memory_limit is {self.memory_limit!r}; it must be a size, as in 4GB or 512MiB")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads is {self.threads}; it must be at least 1")
        if self.num_buckets is not None and not 1 <= self.num_buckets <= 9999:
            raise ValueError(f"num_buckets is {self.num_buckets}; it must be 1 to 9999")
        if self.days_per_part is not None and not 1 <= self.days_per_part <= 99999:
            raise ValueError(f"days_per_part is {self.days_per_part}; it must be 1 to 99999")


def prepare(
    source: Source,
    *,
    out: Path,
    options: PrepareOptions | None = None,
    report: Report = lambda _: None,
) -> Manifest:
    """Prepares the log of `source` into the new folder `out`; `report` receives lines about the progress.

    Raises an InputError of one line for what the user can fix; then nothing is left behind.
    """
    options = options or PrepareOptions()
    check_engine(options.engine)
    refuse_occupied(out)
    with new_folder(out) as folder:
        with TemporaryDirectory(prefix=".work-", dir=folder) as scratch:
            preparation = _Preparation(source=source, out=folder, scratch=Path(scratch), options=options, report=report)
            manifest = preparation.run()
        since = time.time()
        manifest = replace(manifest, files=hash_folder(folder, but=FILE_NAME))
        manifest.save(folder)
        remember_hashes(folder, manifest.files, since=since)
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
        with closing(opened_engine(options, self.scratch)) as engine:
            log = read_log(engine, self.source, self.report)
            schema, staging = log.schema, log.stage(engine)
            self.report(f"numbered {staging.items.num_rows - 1:,} items and {staging.users.num_rows - 1:,} users")
            num_buckets = options.num_buckets or choose_num_buckets(staging.num_rows)
            buckets = arrange_buckets(
                engine, staging, schema, self.scratch, num_buckets=num_buckets, report=self.report
            )
            split = split_times(schema, buckets.times, buckets.first_time, buckets.last_time)
            schema, left_out = self._learnable(buckets, schema, split)
            layout = FolderLayout(
                num_buckets=num_buckets,
                days_per_part=options.days_per_part or choose_days_per_part(buckets),
                last_day=buckets.last_time // DAY,
            )
            periods = Periods.of(split, buckets.first_time, buckets.last_time)
            fitted = fit_log(buckets, staging, schema, periods, split)
            writer = EntityWriter(
                engine=engine,
                schema=schema,
                relations=log.relations,
                log=log.raw,
                folder=self.source.folder,
                periods=periods,
                split=split,
            )
            entities = [
                writer.write("item", staging.items, fitted.items, self.out),
                writer.write("user", staging.users, fitted.users, self.out),
            ]
            threads, versions = engine.threads, engine.versions()
        write_vocabularies(fitted, self.out)
        spec = data_spec(schema, fitted, entities, split.valid_start)
        self.report("writing timelines")
        write_timelines(buckets, schema, fitted, layout, self.out, threads=threads)
        counts = [count_bucket(bucket, schema, split) for bucket in buckets]
        items, users = (FeatureTable.load(self.out, owner, spec) for owner in OWNERS)
        spec, rates = with_duration_groups(spec, buckets, schema, items, split), {}
        if schema.statistics.enabled:
            rates = write_statistics(
                buckets,
                schema,
                counted_features(self.out, schema),
                split,
                self.scratch,
                report=self.report,
                threads=min(threads, 4),
                keep=self.out / "totals",
            )
            move_statistics(buckets, layout, self.scratch, self.out)
        edges = {bare(name): boundaries for name, boundaries in fitted.boundaries.items()}
        return Manifest(
            genrank_version=__version__,
            versions={"python": platform.python_version(), **versions},
            schema=schema,
            spec=spec,
            base_rates=rates,
            split=split,
            layout=layout,
            counts=total_counts(counts, users=staging.users.num_rows - 1, items=staging.items.num_rows - 1),
            boundaries=functools.reduce(operator.or_, (part.boundaries for part in entities), edges),
            dropped=log.findings.dropped | ({"duplicate": buckets.num_duplicates} if buckets.num_duplicates else {}),
            late_actions=buckets.num_late,
            warnings=(
                *left_out,
                *log.relations.warnings,
                *log.findings.warnings,
                *staging.warnings,
                *(warning for part in entities for warning in part.warnings),
                *order_warnings(buckets, schema),
                *check_classes(counts),
                *feature_warnings(buckets, schema, {"item": items, "user": users}, split),
            ),
            files={},
            source=self.source.description | {"rows": log.findings.rows},
        )

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


def opened_engine(options: PrepareOptions, scratch: Path) -> Engine:
    """The engine of these options, which spills into `scratch`."""
    limits = {"master": options.master, "memory_limit": options.memory_limit}
    conf = {key: value for key, _, value in (setting.partition("=") for setting in options.spark_conf)}
    return open_engine(options.engine, scratch / "spill", threads=options.threads, spark_conf=conf, **limits)
