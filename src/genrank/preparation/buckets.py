"""The log in buckets of users, arranged and kept as Arrow files, so that memory holds a bucket or two."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from genrank.data.arranging import PLACE, Arranged, arrange, array, drop_duplicates
from genrank.data.timeline_files import WEIGHTS
from genrank.preparation.admission import DAY, first_sight
from genrank.preparation.engine import Engine
from genrank.preparation.fitting import Sample
from genrank.preparation.staging import Staging
from genrank.preparation.vocabulary import encode, split_values
from genrank.preparation.weighted import split_weighted
from genrank.preparation.writing import BucketCounts, target_of
from genrank.schema import Feature, LogSchema

EXPOSURES_PER_PARTITION = 2**18  # at least so many, over all buckets, lie in the files of one partition; ours
EXPOSURES_PER_BUCKET = 2_500_000  # ours
DAYS_PER_PART = (1, 7, 28, 364, 36400)


@dataclass(frozen=True, kw_only=True)
class Buckets:
    """Arranged buckets on disk. `times`: (a sample of) the target exposures' times; `num_rows`: without duplicates.

    `num_recurring`, `num_late`: see Arranged. `dates_only`: all times are at one time of day, over several days.
    `multi_values`: multi-valued column → its values in order of code.

    A bucket has the columns of the stored log; besides them `request_time`, `request_key` where the log has requests,
    and `place`: the place of the exposure in stored order.
    """

    paths: tuple[Path, ...]
    num_rows: int
    num_duplicates: int
    num_recurring: int
    num_late: int
    dates_only: bool
    first_time: int
    last_time: int
    times: NDArray[np.int64]
    multi_values: dict[str, pa.Array]
    counts: tuple[BucketCounts, ...] = ()  # if a folder is extended: the growth of each bucket
    replaced: dict[int, pa.Table] = field(default_factory=dict)  # and the exposures that it corrects, by bucket

    def __iter__(self) -> Iterator[pa.Table]:
        return (load_bucket(path) for path in self.paths)


def choose_num_buckets(num_rows: int) -> int:
    """A multiple of 8, with at most `EXPOSURES_PER_BUCKET` in a bucket on average: memory holds a few buckets."""
    return 8 * max(1, -(-num_rows // (8 * EXPOSURES_PER_BUCKET)))


@dataclass(frozen=True, kw_only=True)
class BucketFindings:
    """What arranging a bucket found; `grown`: its growth, if a folder is extended."""

    num_duplicates: int = 0
    num_recurring: int
    num_late: int
    grown: tuple[BucketCounts, ...] = ()
    replaced: pa.Table | None = None  # the folder's exposures that new rows give other labels, arranged


class Earlier(Protocol):
    """A prepared folder to extend."""

    @property
    def lists(self) -> Mapping[str, pa.Array]:
        """Multi-valued column → its values in order of code."""
        ...

    def arrange(self, number: int, table: pa.Table, schema: LogSchema) -> tuple[pa.Table, BucketFindings]:
        """The new rows of a bucket, from stored order to timelines, among those that it has."""
        ...


@dataclass(frozen=True)
class ArrangeBucket:
    """Drops a bucket's duplicates, and numbers its requests: from rows in stored order to those of an arranged bucket.

    `earlier`: of the folder that is extended.
    """

    schema: LogSchema
    earlier: Earlier | None = None

    def __call__(self, number: int, table: pa.Table) -> tuple[pa.Table, BucketFindings]:
        """See BucketFunction."""
        for name, feature in _multi(self.schema).items():
            texts = table.column(name).combine_chunks()
            if feature.weights is None:
                lists = split_values(texts, feature.separator)
            else:
                lists, weights = split_weighted(texts, feature)
                table = table.append_column(name + WEIGHTS, weights)
            table = table.set_column(table.column_names.index(name), name, lists)
        table, repeated = drop_duplicates(table.drop_columns("row").combine_chunks())
        if self.earlier is not None:
            arranged, findings = self.earlier.arrange(number, table, self.schema)
            return arranged, replace(findings, num_duplicates=findings.num_duplicates + repeated)
        found = arrange(table, self.schema.requests)
        findings = BucketFindings(num_duplicates=repeated, num_recurring=found.num_recurring, num_late=found.num_late)
        return with_place(found, table), findings


def _multi(schema: LogSchema) -> dict[str, Feature]:
    return {f"feature_{f.name}": f for f in schema.features if f.owner == "exposure" and f.kind == "multi"}


def arrange_buckets(
    engine: Engine,
    staging: Staging,
    schema: LogSchema,
    folder: Path,
    *,
    num_buckets: int,
    report: Callable[[str], None],
    earlier: Earlier | None = None,
) -> Buckets:
    """Drops duplicates in every bucket, numbers requests, and stores the result in `folder`.

    `earlier`: of the folder that is extended.
    """
    sample = Sample(staging.num_rows)
    values: dict[str, list[pa.Array]] = {name: [] for name in _multi(schema)}
    days: dict[str, list[NDArray[np.int64]]] = {name: [] for name in values}
    grown: list[BucketCounts] = []
    replaced: dict[int, pa.Table] = {}
    paths, counts, first, last, hours = [], np.zeros(4, np.int64), [], [], set()
    order = [name for name in (*PLACE, "row") if name in staging.log.columns]
    arranged = engine.map_buckets(
        staging.log,
        "user",
        ArrangeBucket(schema, earlier),
        num_buckets=num_buckets,
        num_rows=staging.num_rows,
        order_by=order,
    )
    for number, (table, found) in enumerate(arranged):
        for name in values:
            found_values, found_days = _first_days(table, name)
            values[name].append(found_values)
            days[name].append(found_days)
        grown += found.grown
        if found.replaced is not None:
            replaced[number] = found.replaced
        paths.append(folder / f"bucket-{number}.arrow")
        _save(table, paths[-1])
        counts += [table.num_rows, found.num_duplicates, found.num_recurring, found.num_late]
        if table.num_rows:
            time = array(table, "time")
            sample.add(time[target_of(table)])
            first.append(int(time.min()))
            last.append(int(time.max()))
            hours |= {int(time[0] % DAY)} if np.all(time % DAY == time[0] % DAY) else {-1}
        report(f"arranged {counts[0]:,} exposures")
    num_rows, num_duplicates, num_recurring, num_late = counts.tolist()
    return Buckets(
        paths=tuple(paths),
        num_rows=num_rows,
        num_duplicates=num_duplicates,
        num_recurring=num_recurring,
        num_late=num_late,
        dates_only=len(hours) == 1 and hours != {-1} and max(last) - min(first) >= DAY,
        first_time=min(first),
        last_time=max(last),
        times=sample.values(),
        multi_values={
            name: _distinct(parts, days[name], earlier.lists.get(name) if earlier is not None else None)
            for name, parts in values.items()
        },
        counts=tuple(grown),
        replaced=replaced,
    )


def choose_days_per_part(buckets: Buckets) -> int:
    """One day if it has enough exposures for separate files; else more days, up to all days of any log."""
    days = buckets.last_time // DAY - buckets.first_time // DAY + 1
    wanted = EXPOSURES_PER_PARTITION * days / max(1, buckets.num_rows)
    return next((number for number in DAYS_PER_PART if number >= wanted), DAYS_PER_PART[-1])


def with_place(found: Arranged, stored: pa.Table) -> pa.Table:
    """The arranged rows of a table in stored order, with `place` and, where there are requests, `request_key`."""
    table = found.table.append_column("place", pa.array(found.order))
    if "request" in stored.column_names:
        table = table.append_column("request_key", stored.column("request").take(pa.array(found.order)))
    return table


def _first_days(table: pa.Table, name: str) -> tuple[pa.Array, NDArray[np.int64]]:
    """The distinct values of a list column, and the first day of each."""
    lists = table.column(name).combine_chunks()
    values, codes = encode(lists.flatten())
    first = np.full(len(values) + 1, np.iinfo(np.int64).max)
    np.minimum.at(first, codes, np.repeat(array(table, "time") // DAY, pc.list_value_length(lists).to_numpy()))
    return values, first[1:]


def load_bucket(path: Path) -> pa.Table:
    """A stored bucket, mapped into memory."""
    with pa.memory_map(str(path)) as file:
        return pa.ipc.open_file(file).read_all()


def _save(table: pa.Table, path: Path) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table.combine_chunks())


def _distinct(parts: list[pa.Array], days: list[NDArray[np.int64]], known: pa.Array | None) -> pa.Array:
    """All values in order of code: those that are known, then the new ones."""
    values = first_sight(parts, days)
    if known is None:
        return values
    return pa.concat_arrays([known, values.filter(pc.invert(pc.is_in(values, known)))])
