"""How fast window statistics of a log are counted, against the plain NumPy reference of the tests.

python benchmarks/count_windows.py [--exposures 1000000] [--rounds 3] [--tasks 1] [--multi]

The log: users with 100 exposures each in requests of ten over 30 days, 100,000 items, one author each, five windows;
with --multi the items have up to three tags too. Both sides answer what `prepare` asks, in one process, one after the
other; printed are the medians, their ratio, and whether the results are the same bytes.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from genrank.batch import Jagged
from genrank.data.statistics import Events
from genrank.data.timelines import offsets_of
from genrank.data.window_statistics import WindowStatistics
from genrank.schema import Columns, Feature, LogSchema, Statistics, Task

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from plain_statistics import PlainStatistics

NUM_ITEMS, SLOTS, DAYS = 100_000, 10, 30


def make(num_exposures: int, num_tasks: int, *, multi: bool) -> tuple[LogSchema, Events, dict[str, Any]]:
    """The schema, the exposures in the order of timelines, and the items' features."""
    rng = np.random.default_rng(0)
    requests = num_exposures // SLOTS
    user, began = rng.integers(1, requests // 10 + 1, requests), rng.integers(0, DAYS * 86_400, requests)
    order = np.lexsort((began, user))
    count, tasks = requests * SLOTS, tuple(f"task{n}" for n in range(num_tasks))
    request_time = np.repeat(1_700_000_000 + began[order], SLOTS)
    events = Events(
        user=np.repeat(user[order], SLOTS).astype(np.int32),
        item=(rng.random(count) ** 3 * NUM_ITEMS).astype(np.int32) + 1,
        time=request_time + np.tile(np.arange(SLOTS), requests) // 4,
        request_time=request_time,
        target=np.ones(count, np.bool_),
        labels={task: (rng.random(count) < 0.2).astype(np.int8) for task in tasks},
    )
    features: dict[str, Any] = {"author": rng.integers(1, 10_000, NUM_ITEMS + 1, dtype=np.int32)}
    if multi:
        lengths = rng.integers(0, 4, NUM_ITEMS + 1)
        features["tags"] = Jagged(rng.integers(1, 500, lengths.sum(), dtype=np.int32), offsets_of(lengths))
    schema = LogSchema(
        name="benchmark",
        columns=Columns(user="user", item="item", time="time"),
        tasks=tuple(Task(name=task, kind="binary", column=task) for task in tasks),
        features=tuple(
            Feature(name=name, owner="item", kind="multi" if name == "tags" else "categorical", column=name)
            for name in features
        ),
        statistics=Statistics(enabled=True),
    )
    return schema, events, features


def answers(kind: Any, schema: LogSchema, events: Events, features: dict[str, Any]) -> Any:
    """(N, S) as `kind` counts them."""
    rates = dict.fromkeys(events.labels, 0.2)
    return kind(schema, events, rates=rates, item_features=features).answers(
        events.user, events.item, events.request_time
    )


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = run()
    return time.perf_counter() - started, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--exposures", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tasks", type=int, default=1)
    parser.add_argument("--multi", action="store_true")
    arguments = parser.parse_args()
    log = make(arguments.exposures, arguments.tasks, multi=arguments.multi)
    small = make(1000, arguments.tasks, multi=arguments.multi)
    answers(WindowStatistics, *small)  # compiles
    plain, fast, same = [], [], True
    for _ in range(arguments.rounds):
        seconds, expected = timed(lambda: answers(PlainStatistics, *log))
        plain.append(seconds)
        seconds, found = timed(lambda: answers(WindowStatistics, *log))
        fast.append(seconds)
        same &= expected.tobytes() == found.tobytes()
    medians = statistics.median(plain), statistics.median(fast)
    print(f"{len(found):,} exposures × {found.shape[1]} columns, medians of {arguments.rounds}, in turns")
    print(f"plain {medians[0]:.2f} s   counted {medians[1]:.2f} s   ratio {medians[0] / medians[1]:.2f}   same: {same}")


if __name__ == "__main__":
    main()
