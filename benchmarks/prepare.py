"""How fast a log becomes timelines, end to end, and how much memory that takes.

python benchmarks/prepare.py [--exposures N] [--per-user N] [--threads T] [--memory-limit 4GB] [--statistics] [--extend]
                             [--json]

The log is made with NumPy in a temporary folder: users with 100 exposures each (or as many as --per-user says) in
requests of ten, in order of time; a
context feature, three binary tasks, a duration and three columns of true probabilities. Preparation runs in a process
of its own, whose peak memory is measured; start-up, hashing and flushing to disk count. With --statistics the items
have an author, and window statistics of clicks are counted: 60 columns. With --extend the log has 15 days; all of them
are prepared at once, then 14 of them, and the last one is added: the figures are of all three.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

NUM_ITEMS = 100_000
SLOTS = 10
SCHEMA = """
name = "benchmark"
columns = { user = "user", item = "item", time = "time", request = "request", position = "position" }
tasks = [
    { name = "click", kind = "binary", column = "click" },
    { name = "like", kind = "binary", column = "like" },
    { name = "share", kind = "binary", column = "share" },
    { name = "dwell", kind = "duration", column = "dwell" },
]
oracle = { click = "p_click", like = "p_like", share = "p_share" }

[[features]]
name = "tab"
owner = "exposure"
kind = "categorical"
column = "tab"
"""
STATISTICS = """
[[features]]
name = "author"
owner = "item"
kind = "categorical"
column = "author"

[statistics]
enabled = true
tasks = ["click"]
"""
SPLIT = """
[split]
valid_start = {valid}
test_start = {test}
"""
CHILD = """
import sys
from pathlib import Path
from genrank.preparation.extending import extend
from genrank.preparation.prepare import PrepareOptions, prepare
from genrank.preparation.sources.files import files
schema, out, memory, threads, days, *logs = sys.argv[1:]
options = PrepareOptions(memory_limit=memory or None, threads=int(threads) or None, days_per_part=int(days) or None)
source = files(logs, schema=Path(schema))
if Path(out).exists():
    extend(source, Path(out), options=options)
else:
    prepare(source, out=Path(out), options=options)
"""
BEGIN, DAY = 1_700_006_400, 86_400  # midnight


def exposures(requests: slice, user: np.ndarray, time_of: np.ndarray, rng: np.random.Generator) -> pa.Table:
    """The rows of some requests, `SLOTS` each."""
    count = (requests.stop - requests.start) * SLOTS
    chances = rng.random((3, count), dtype=np.float32)
    tabs = pa.DictionaryArray.from_arrays(rng.integers(0, 4, count, np.int32), ["home", "follow", "near", "search"])
    columns: dict[str, Any] = {
        "user": np.repeat(user[requests], SLOTS),
        "item": (rng.random(count) ** 3 * NUM_ITEMS).astype(np.int64),
        "request": np.repeat(np.arange(requests.start, requests.stop), SLOTS),
        "time": np.repeat(time_of[requests], SLOTS),
        "position": np.tile(np.arange(SLOTS, dtype=np.int32), count // SLOTS),
        "tab": tabs.cast(pa.string()),
        "dwell": rng.exponential(10, count).astype(np.float32),
    }
    columns["author"] = columns["item"] % 9973
    for name, chance in zip(("click", "like", "share"), chances, strict=True):
        columns |= {name: (rng.random(count) < chance).astype(np.int8), f"p_{name}": chance}
    return pa.table(columns)


def make_log(folder: Path, num_exposures: int, num_days: int, per_user: int = 100) -> list[Path]:
    """A log of about `num_exposures` rows, `per_user` of each user, a file for each day."""
    rng = np.random.default_rng(0)
    requests = max(100, num_exposures // SLOTS)
    user = rng.integers(0, max(1, num_exposures // per_user), requests)
    time_of = BEGIN + np.sort(rng.integers(0, num_days * DAY, requests))
    paths, ends = [], np.searchsorted(time_of, BEGIN + DAY * np.arange(num_days + 1))
    for day, (first, last) in enumerate(pairwise(ends.tolist())):
        path = folder / f"day-{day:02d}.parquet"
        writer = None
        for start in range(first, last, 100_000):
            table = exposures(slice(start, min(last, start + 100_000)), user, time_of, rng)
            writer = writer or pq.ParquetWriter(path, table.schema)
            writer.write_table(table)
        if writer is not None:
            writer.close()
            paths.append(path)
    return paths


def run(logs: list[Path], out: Path, arguments: argparse.Namespace, days_per_part: int = 0) -> dict[str, Any]:
    """The logs prepared into `out`, or added to it, by a process of its own."""
    settings = [arguments.memory_limit, str(arguments.threads), str(days_per_part)]
    command = [sys.executable, "-c", CHILD, str(out.parent / "schema.toml"), str(out), *settings, *map(str, logs)]
    started = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    assert status == 0
    unit = 1 if sys.platform == "darwin" else 1024
    rows = sum(pq.read_metadata(path).num_rows for path in logs)
    return {
        "exposures": rows,
        "statistics": arguments.statistics,
        "users": pq.read_metadata(out / "users.parquet").num_rows - 1,
        "seconds": round(seconds, 2),
        "exposures_per_second": round(rows / seconds),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_memory_gib": round(usage.ru_maxrss * unit / 2**30, 2),
        "log_mib": round(sum(path.stat().st_size for path in logs) / 2**20),
        "prepared_mib": round(sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) / 2**20),
    }


def measure(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """What is measured, by name."""
    days = 15 if arguments.extend else 30
    logs = make_log(folder, arguments.exposures, days, arguments.per_user)
    split = SPLIT.format(valid=BEGIN + (days - 3) * DAY, test=BEGIN + (days - 2) * DAY)
    (folder / "schema.toml").write_text(SCHEMA + (STATISTICS if arguments.statistics else "") + split)
    if not arguments.extend:
        return run(logs, folder / "prepared", arguments)
    steps = {"at once": (logs, "whole"), "14 days": (logs[:-1], "grown"), "one day more": (logs[-1:], "grown")}
    found = {name: run(paths, folder / out, arguments, days_per_part=1) for name, (paths, out) in steps.items()}
    measured = {f"{name}, {what}": value for name, values in found.items() for what, value in values.items()}
    shares = {what: found["one day more"][what] / found["at once"][what] * 15 for what in ("seconds", "cpu_seconds")}
    return measured | {f"{what} of one day, of a fifteenth": round(value, 2) for what, value in shares.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--exposures", type=int, default=2_000_000)
    parser.add_argument("--per-user", type=int, default=100, help="exposures of a user")
    parser.add_argument("--threads", type=int, default=0, help="default: all cores")
    parser.add_argument("--memory-limit", default="", help="of the engine, as in 4GB (default: half of the memory)")
    parser.add_argument("--statistics", action="store_true")
    parser.add_argument("--extend", action="store_true")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measured = measure(Path(folder), arguments)
    if arguments.json:
        print(json.dumps(measured))
        return
    for name, value in measured.items():
        print(f"{name.replace('_', ' '):40s} {value:>14,}")


if __name__ == "__main__":
    main()
