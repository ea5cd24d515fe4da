"""The log in buckets of users, arranged and kept as Arrow files, so that memory holds a bucket or two."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from genrank.data.timeline_files import WEIGHTS
from genrank.preparation.arranging import arrange, array
from genrank.preparation.engine import Engine
from genrank.preparation.fitting import Sample
from genrank.preparation.staging import Staging
from genrank.preparation.vocabulary import split_values
from genrank.preparation.weighted import split_weighted
from genrank.preparation.writing import target_of
from genrank.schema import LogSchema

DAY = 86_400  # seconds


@dataclass(frozen=True, kw_only=True)
class Buckets:
    """Arranged buckets on disk. `times`: (a sample of) the target exposures' times; `num_rows`: without duplicates.

    `num_recurring`, `num_late`: see Arranged. `dates_only`: all times are at one time of day, over several days.
    `multi_values`: multi-valued column → its values in order of text.
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

    def __iter__(self) -> Iterator[pa.Table]:
        return (load_bucket(path) for path in self.paths)


def choose_num_buckets(num_rows: int) -> int:
    """A power of two that grows more slowly than the log, since every bucket is one scan of the stored log.

    8 up to 20 million exposures (2.5 million each), 128 for a billion (8 million each); these figures are ours.
    """
    wanted = 8 * (num_rows / 20e6) ** (2 / 3)
    return int(2 ** np.ceil(np.log2(max(8.0, wanted))))


def arrange_buckets(
    engine: Engine,
    staging: Staging,
    schema: LogSchema,
    folder: Path,
    *,
    num_buckets: int,
    report: Callable[[str], None],
) -> Buckets:
    """Sorts every bucket, drops duplicates, numbers requests, and stores the result in `folder`."""
    sample = Sample(staging.num_rows)
    multi = {f"feature_{f.name}": f for f in schema.features if f.owner == "exposure" and f.kind == "multi"}
    values: dict[str, list[pa.Array]] = {name: [] for name in multi}
    paths, counts, first, last, hours = [], np.zeros(4, np.int64), [], [], set()
    for number, table in enumerate(_prefetched(lambda n: engine.fetch(staging.bucket(n, num_buckets)), num_buckets)):
        for name, feature in multi.items():
            texts = table.column(name).combine_chunks()
            if feature.weights is None:
                lists = split_values(texts, feature.separator)
            else:
                lists, weights = split_weighted(texts, feature)
                table = table.append_column(name + WEIGHTS, weights)
            table = table.set_column(table.column_names.index(name), name, lists)
        found = arrange(table.combine_chunks(), schema.requests)
        arranged = found.table
        for name, parts in values.items():
            parts.append(pc.unique(arranged.column(name).combine_chunks().flatten()))
        paths.append(folder / f"bucket-{number}.arrow")
        _save(arranged, paths[-1])
        counts += [arranged.num_rows, found.num_duplicates, found.num_recurring, found.num_late]
        if arranged.num_rows:
            time = array(arranged, "time")
            sample.add(time[target_of(arranged)])
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
        multi_values={name: _distinct(parts) for name, parts in values.items()},
    )


def load_bucket(path: Path) -> pa.Table:
    """A stored bucket, mapped into memory."""
    with pa.memory_map(str(path)) as file:
        return pa.ipc.open_file(file).read_all()


def _save(table: pa.Table, path: Path) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table.combine_chunks())


def _prefetched(fetch: Callable[[int], pa.Table], count: int) -> Iterator[pa.Table]:
    """fetch(0), fetch(1), … with the next one under way while the caller works on the last."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        future = pool.submit(fetch, 0)
        for number in range(count):
            table = future.result()
            if number + 1 < count:
                future = pool.submit(fetch, number + 1)
            yield table


def _distinct(parts: list[pa.Array]) -> pa.Array:
    values = pc.unique(pa.concat_arrays(parts))
    return values.take(pc.sort_indices(values))
