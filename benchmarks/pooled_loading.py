"""Peak memory and speed of reading a training part in pools: `python benchmarks/pooled_loading.py --exposures 1000000`.

Prepares a random log of 200 exposures a user, then reads one epoch in a fresh process per bound of memory. Prints a
line of JSON for each: seconds until the first batch, exposures learned from per second in all, processor seconds, and
the peak resident memory of the process, that before its data is opened (imports) beside it. With `--retrieval`, the
epoch is that of a retriever (recipe grank-small): positives only, a longer history for its ranker, and items counted
before.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from genrank.data.batch_plan import LoaderConfig
from genrank.data.loader import Loader
from genrank.data.pooled_loader import PooledLoader
from genrank.data.pools import StoredData, StoredPart
from genrank.data.sequence import SequenceConfig
from genrank.preparation.prepare import PrepareOptions, prepare
from genrank.preparation.sources.files import files
from genrank.recipes import recipe
from genrank.runs.learner import learner_of
from genrank.schema import Columns, LogSchema, Task
from genrank.training.allocator import keep_freed_memory

PER_USER, ITEMS, DAYS = 200, 20_000, 14


def prepared(folder: Path, exposures: int) -> Path:
    """A random log, prepared in `folder`."""
    random = np.random.default_rng(0)
    rows = pa.table(
        {
            "user": random.integers(exposures // PER_USER, size=exposures).astype(str),
            "item": random.integers(ITEMS, size=exposures).astype(str),
            "time": 1_700_000_000 + random.integers(DAYS * 86_400, size=exposures),
            "click": random.integers(2, size=exposures).astype(np.int8),
        }
    )
    pq.write_table(rows, folder / "log.parquet")
    click = Task(name="click", kind="binary", column="click")
    schema = LogSchema(name="random", columns=Columns(user="user", item="item", time="time"), tasks=(click,))
    source = files([folder / "log.parquet"], schema=schema, folder=folder)
    prepare(source, out=folder / "prepared", options=PrepareOptions())
    return folder / "prepared"


def measured(folder: Path, max_exposures: int, *, retrieval: bool) -> dict[str, Any]:
    """One epoch of the training part in this process."""
    keep_freed_memory()  # as training does
    imports, began, processor = _peak(), time.monotonic(), time.process_time()
    config = recipe("grank-small" if retrieval else "genrank")
    stored = StoredData.open(folder, view=lambda spec: learner_of(config.model).view(config, spec))
    loading = LoaderConfig(max_exposures=max_exposures)
    sequence = config.sequence if retrieval else SequenceConfig()
    part = StoredPart(data=stored, part="train", sequence=sequence, loading=loading, search=config.model.search)
    num_pools = len(stored.pools(max_exposures))
    loader = PooledLoader(part) if num_pools > 1 else Loader(*part.read(stored.pools(max_exposures)[0]), loading)
    if retrieval:
        loader.item_counts()
    first, exposures = 0.0, 0
    for batch in loader:
        first = first or time.monotonic() - began
        exposures += len(batch.candidates.item)
    seconds = time.monotonic() - began
    return {
        "rows": sum(stored.rows),
        "max_exposures": max_exposures,
        "pools": num_pools,
        "seconds_to_first_batch": round(first, 2),
        "exposures_per_second": round(exposures / seconds),
        "processor_seconds": round(time.process_time() - processor, 1),
        "peak_mib": round(_peak()),
        "peak_of_imports_mib": round(imports),
    }


def _peak() -> float:
    """MiB. From Linux's /proc: getrusage would count the peak of the parent process too."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def main() -> None:
    """Prepare once, and measure each bound in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--exposures", type=int, default=1_000_000)
    parser.add_argument("--bounds", type=int, nargs="+", help="of exposures in memory; default: all, a half, a quarter")
    parser.add_argument("--retrieval", action="store_true", help="a retriever's epoch, not a ranker's")
    parser.add_argument("--folder", type=Path, help="measure this prepared folder in this process, with one bound")
    options = parser.parse_args()
    if options.folder:
        print(json.dumps(measured(options.folder, options.bounds[0], retrieval=options.retrieval)))
        return
    bounds = options.bounds or [2 * options.exposures, options.exposures // 2, options.exposures // 4]
    with tempfile.TemporaryDirectory() as scratch:
        folder = prepared(Path(scratch), options.exposures)
        for bound in bounds:
            command = [sys.executable, __file__, "--folder", str(folder), "--bounds", str(bound)]
            subprocess.run(command + ["--retrieval"] * options.retrieval, check=True)


if __name__ == "__main__":
    main()
