"""How fast window statistics of a log are counted and written, and in how much memory, against the plain reference.

python benchmarks/count_windows.py [--exposures 1000000] [--rounds 3] [--tasks 1] [--multi] [--threads 1] [--memory]

The log: users with 100 exposures each in requests of ten over 30 days, 100,000 items, one author each, five windows;
with --multi the items have up to three tags too. `write_statistics` and the plain NumPy code of the tests, which holds
the whole log and runs on one thread, write the same eight buckets in turns, in one process; printed are the medians of
wall and processor time, their ratios, and whether the files are the same bytes. --memory: instead, each side once in a
process of its own, whose peak memory is printed.
"""

import argparse
import hashlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa

from genrank.batch import Jagged
from genrank.data.statistics import Events, base_rates, label_counts, statistics_columns, statistics_tasks
from genrank.data.timelines import offsets_of
from genrank.preparation.buckets import Buckets
from genrank.preparation.point_in_time import events_of, write_statistics
from genrank.schema import Columns, Feature, LogSchema, Statistics, Task

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from plain_statistics import PlainStatistics

NUM_ITEMS, SLOTS, DAYS, BEGIN = 100_000, 10, 30, 1_700_000_000
NUM_BUCKETS = 8


def world(num_tasks: int, *, multi: bool) -> tuple[LogSchema, dict[str, Any]]:
    """The schema, and the items' features."""
    rng = np.random.default_rng(0)
    features: dict[str, Any] = {"author": rng.integers(1, 10_000, NUM_ITEMS + 1, dtype=np.int32)}
    if multi:
        lengths = rng.integers(0, 4, NUM_ITEMS + 1)
        features["tags"] = Jagged(rng.integers(1, 500, lengths.sum(), dtype=np.int32), offsets_of(lengths))
    schema = LogSchema(
        name="benchmark",
        columns=Columns(user="user", item="item", time="time"),
        tasks=tuple(Task(name=f"task{n}", kind="binary", column=f"task{n}") for n in range(num_tasks)),
        features=tuple(
            Feature(name=name, owner="item", kind="multi" if name == "tags" else "categorical", column=name)
            for name in features
        ),
        statistics=Statistics(enabled=True),
    )
    return schema, features


def exposures(count: int, tasks: tuple[str, ...]) -> Events:
    """In the order of timelines."""
    rng = np.random.default_rng(1)
    requests = count // SLOTS
    user, began = rng.integers(1, requests // 10 + 1, requests), rng.integers(0, DAYS * 86_400, requests)
    order = np.lexsort((began, user))
    request_time = np.repeat(BEGIN + began[order], SLOTS)
    return Events(
        user=np.repeat(user[order], SLOTS).astype(np.int32),
        item=(rng.random(requests * SLOTS) ** 3 * NUM_ITEMS).astype(np.int32) + 1,
        time=request_time + np.tile(np.arange(SLOTS), requests) // 4,
        request_time=request_time,
        target=np.ones(requests * SLOTS, np.bool_),
        labels={task: (rng.random(requests * SLOTS) < 0.2).astype(np.int8) for task in tasks},
    )


def store(events: Events, folder: Path) -> None:
    """The exposures in buckets of users, as `prepare` keeps them."""
    for number in range(NUM_BUCKETS):
        rows = np.flatnonzero(events.user % NUM_BUCKETS == number)
        columns = {name: getattr(events, name)[rows] for name in ("user", "item", "request_time", "target")}
        labels = {f"task_{task}": values[rows] for task, values in events.labels.items()}
        table = pa.table(columns | {"time": events.request_time[rows], "known_at": events.time[rows]} | labels)
        with pa.OSFile(f"{folder}/bucket-{number}.arrow", "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)


def stored(folder: Path, count: int) -> Buckets:
    return Buckets(
        paths=tuple(folder / f"bucket-{number}.arrow" for number in range(NUM_BUCKETS)),
        num_rows=count, num_duplicates=0, num_recurring=0, num_late=0, dates_only=False,
        first_time=0, last_time=0, times=np.zeros(0, np.int64), multi_values={},
    )  # fmt: skip


def plainly(buckets: Buckets, schema: LogSchema, items: Any, split: Any, folder: Path, **_: Any) -> None:
    """`write_statistics` with the whole log in memory, an entity at a time."""
    (folder / "statistics").mkdir()
    tasks = statistics_tasks(schema)
    first, *others = [events_of(bucket, tasks) for bucket in buckets]
    events = first.joined(*others)
    rates = base_rates(schema, label_counts(schema, events, split.valid_start))
    counted = PlainStatistics(schema, events, rates=rates, item_features=items.features)
    ends, width = np.cumsum([0, *(bucket.num_rows for bucket in buckets)]).tolist(), len(statistics_columns(schema))
    files = [
        np.lib.format.open_memmap(folder / "statistics" / f"bucket={n:04d}.npy", "w+", np.float16, (end - begin, width))
        for n, (begin, end) in enumerate(pairwise(ends))
    ]
    stop = 0
    for entity in counted.entities:
        start, stop, index = stop, stop + width // len(counted.entities), counted.index(entity)
        for file, (begin, end) in zip(files, pairwise(ends), strict=True):
            asked = (column[begin:end] for column in (events.user, events.item, events.request_time))
            file[:, start:stop] = counted.block(entity, index, *asked)
    for file in files:
        file.flush()


def timed(
    write: Any, buckets: Buckets, schema: LogSchema, features: dict[str, Any], threads: int = 1
) -> tuple[float, float, str]:
    """Seconds on the clock and of the processor, and a hash of what was written."""
    items, split = SimpleNamespace(features=features), SimpleNamespace(valid_start=BEGIN + DAYS * 64_800)
    with tempfile.TemporaryDirectory() as folder:
        started, busy = time.perf_counter(), time.process_time()
        write(buckets, schema, items, split, Path(folder), report=lambda _: None, threads=threads)
        seconds, busy = time.perf_counter() - started, time.process_time() - busy
        found = hashlib.sha256()
        for path in sorted((Path(folder) / "statistics").iterdir()):
            found.update(path.read_bytes())
        return seconds, busy, found.hexdigest()


def compare(folder: Path, arguments: argparse.Namespace) -> None:
    """Both sides in turns."""
    (schema, features), buckets = world(arguments.tasks, multi=arguments.multi), stored(folder, arguments.exposures)
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in SIDES}
    hashes = set()
    for _ in range(arguments.rounds):
        for name, write in SIDES.items():
            *seconds, found = timed(write, buckets, schema, features, arguments.threads)
            taken[name].append(tuple(seconds))
            hashes.add(found)
    width = len(statistics_columns(schema))
    print(f"{arguments.exposures:,} exposures × {width} columns, medians of {arguments.rounds}, in turns")
    for number, what in enumerate(("clock", "processor")):
        plain, fast = (statistics.median(each[number] for each in rounds) for rounds in taken.values())
        print(f"{what:10} plain {plain:.2f} s   partitioned {fast:.2f} s   ratio {plain / fast:.2f}")
    print(f"same bytes: {len(hashes) == 1}")


def measure(folder: Path, arguments: argparse.Namespace) -> None:
    """One side, in this process."""
    (schema, features), buckets = world(arguments.tasks, multi=arguments.multi), stored(folder, arguments.exposures)
    before = peak_mib()
    seconds, *_ = timed(SIDES[arguments.side], buckets, schema, features, arguments.threads)
    print(f"{arguments.side:12} {seconds:6.2f} s, peak {peak_mib():,.0f} MiB, {before:,.0f} MiB before it began")


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


SIDES = {"plain": plainly, "partitioned": write_statistics}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--exposures", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tasks", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--multi", action="store_true")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        measure(arguments.folder, arguments)
        return
    with tempfile.TemporaryDirectory() as folder:
        tasks = statistics_tasks(world(arguments.tasks, multi=arguments.multi)[0])
        store(exposures(arguments.exposures, tasks), Path(folder))
        if not arguments.memory:
            compare(Path(folder), arguments)
            return
        for side in SIDES:
            subprocess.run([sys.executable, *sys.argv, "--side", side, "--folder", folder], check=True)


if __name__ == "__main__":
    main()
