"""How fast a log becomes timelines, end to end, and how much memory that takes.

python benchmarks/prepare.py [--exposures N] [--threads T] [--memory-limit 4GB] [--json]

The log is made with NumPy in a temporary folder: users with 100 exposures each in requests of ten, in order of time; a
context feature, three binary tasks, a duration and three columns of true probabilities. Preparation runs in a process
of its own, whose peak memory is measured; start-up, hashing and flushing to disk count.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
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
features = [{ name = "tab", owner = "exposure", kind = "categorical", column = "tab" }]
oracle = { click = "p_click", like = "p_like", share = "p_share" }
"""
CHILD = """
import sys
from pathlib import Path
from genrank.preparation.prepare import PrepareOptions, prepare
from genrank.preparation.sources.files import files
log, schema, out, memory, threads = sys.argv[1:]
options = PrepareOptions(memory_limit=memory or None, threads=int(threads) or None)
prepare(files([log], schema=Path(schema)), out=Path(out), options=options)
"""


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
    for name, chance in zip(("click", "like", "share"), chances, strict=True):
        columns |= {name: (rng.random(count) < chance).astype(np.int8), f"p_{name}": chance}
    return pa.table(columns)


def make_log(path: Path, num_exposures: int) -> None:
    """A log of about `num_exposures` rows over 30 days."""
    rng = np.random.default_rng(0)
    requests = max(100, num_exposures // SLOTS)
    user = rng.integers(0, max(1, requests // 10), requests)
    time_of = 1_700_000_000 + np.sort(rng.integers(0, 30 * 86_400, requests))
    step = 100_000
    writer = None
    for start in range(0, requests, step):
        table = exposures(slice(start, min(requests, start + step)), user, time_of, rng)
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    assert writer is not None
    writer.close()


def measure(folder: Path, num_exposures: int, memory: str, threads: int) -> dict[str, Any]:
    log, schema, out = folder / "log.parquet", folder / "schema.toml", folder / "prepared"
    make_log(log, num_exposures)
    schema.write_text(SCHEMA)
    command = [sys.executable, "-c", CHILD, str(log), str(schema), str(out), memory, str(threads)]
    started = time.perf_counter()
    subprocess.run(command, check=True)
    seconds = time.perf_counter() - started
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "exposures": pq.read_metadata(log).num_rows,
        "seconds": round(seconds, 2),
        "exposures_per_second": round(num_exposures / seconds),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_memory_gib": round(usage.ru_maxrss * unit / 2**30, 2),
        "log_mib": round(log.stat().st_size / 2**20),
        "prepared_mib": round(sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) / 2**20),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--exposures", type=int, default=2_000_000)
    parser.add_argument("--threads", type=int, default=0, help="default: all cores")
    parser.add_argument("--memory-limit", default="", help="of the engine, as in 4GB (default: half of the memory)")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measured = measure(Path(folder), arguments.exposures, arguments.memory_limit, arguments.threads)
    if arguments.json:
        print(json.dumps(measured))
        return
    for name, value in measured.items():
        print(f"{name.replace('_', ' '):22s} {value:>14,}")


if __name__ == "__main__":
    main()
