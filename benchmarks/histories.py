"""What prepared histories cost in memory and on disk: how fast a user's is read, and how much memory a process takes.

    python benchmarks/histories.py [--exposures 4000000] [--candidates 200000] [--users 20000]

Prepares the log of benchmarks/prepare.py, 100 exposures a user over 30 days, and saves a model of recipe genrank-small
that hasn't been trained. Each figure is of a process of its own, which prints a line of JSON: histories of 300 users
that were not read before, and a file of candidates that is scored, its users in random order. `resident` and `peak` are
MiB of the whole process, `before` what it took before histories were opened.
"""

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

import prepare
from genrank.artifacts.bundle import load_bundle, write_bundle
from genrank.data.manifest import Manifest
from genrank.inference.batch_scoring import score_file
from genrank.inference.gen_ranker import GenRanker
from genrank.inference.pasts import PastInMemory, PastOnDisk
from genrank.models.ranker import build_ranker
from genrank.recipes import genrank_small

COLD = 300
MIB = 2**20


def make(folder: Path, exposures: int) -> None:
    """A prepared log, and a run with a bundle."""
    logs = prepare.make_log(folder, exposures, 30)
    split = prepare.SPLIT.format(valid=prepare.BEGIN + 27 * prepare.DAY, test=prepare.BEGIN + 28 * prepare.DAY)
    (folder / "schema.toml").write_text(prepare.SCHEMA + split)
    prepare.run(logs, folder / "prepared", SimpleNamespace(memory_limit="4GB", threads=2, statistics=False))
    for path in logs:
        path.unlink()
    config, spec = genrank_small(), Manifest.open(folder / "prepared").spec
    model = build_ranker(config.model, spec, max_history=config.sequence.max_history)
    write_bundle(
        folder / "run" / "bundle", model, data=folder / "prepared", sequence=config.sequence, value={"click": 1.0}
    )


def candidates(folder: Path, rows: int, users: int) -> Path:
    """Candidates of random users, in random order, a second after the log."""
    random = np.random.default_rng(1)
    names = pq.read_table(folder / "prepared" / "users.parquet", columns=["id"]).column(0).to_numpy()[1:]
    chosen = random.choice(names, min(users, len(names)), replace=False)
    path = folder / "candidates.parquet"
    items = random.integers(0, prepare.NUM_ITEMS, rows).astype(str)
    pq.write_table(pa.table({"user": random.choice(chosen, rows), "item": items}), path)
    return path


def measured(folder: Path, what: str, where: str) -> dict[str, Any]:
    """A figure, in this process. what: users or score; where: memory or disk."""
    torch.set_num_threads(1)
    if what == "users":
        return cold_users(folder / "prepared", where)
    ranker = GenRanker(load_bundle(folder / "run"), in_memory=where == "memory")
    before, began = resident(), time.process_time()
    score_file(ranker, folder / "candidates.parquet", folder / f"{where}.parquet")
    content = hashlib.sha256((folder / f"{where}.parquet").read_bytes()).hexdigest()[:12]
    return {"opened": before, "cpu_seconds": round(time.process_time() - began, 1), "scores": content} | peak()


def cold_users(data: Path, where: str) -> dict[str, Any]:
    """Timelines of users who were not read before."""
    manifest = Manifest.load(data)
    before, began = resident(), time.process_time()
    past = (PastInMemory if where == "memory" else PastOnDisk)(data, manifest.spec)
    opened = time.process_time() - began
    rows = 1 + np.random.default_rng(0).permutation(manifest.counts.users)[:COLD]
    seconds, cpu = np.zeros(len(rows)), time.process_time()
    for place, row in enumerate(rows.tolist()):
        started = time.perf_counter()
        assert past.of(row).num_exposures
        seconds[place] = time.perf_counter() - started
    median, slow = np.quantile(seconds * 1e3, [0.5, 0.99])
    cpu = (time.process_time() - cpu) / len(rows) * 1e3
    times = {"ms_median": round(median, 3), "ms_99th": round(slow, 3), "cpu_ms": round(cpu, 3)}
    return {"before": before, "open_cpu_seconds": round(opened, 2), "resident": resident(), **times} | peak()


def resident() -> int:
    """MiB of this process now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / MIB)


def peak() -> dict[str, int]:
    """MiB of this process at most."""
    return {"peak": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exposures", type=int, default=4_000_000)
    parser.add_argument("--candidates", type=int, default=200_000)
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--measure", nargs=3, metavar=("FOLDER", "WHAT", "WHERE"), help="in this process")
    options = parser.parse_args()
    if options.measure:
        folder, what, where = options.measure
        print(json.dumps({"what": what, "where": where} | measured(Path(folder), what, where)), flush=True)
        return
    with tempfile.TemporaryDirectory() as name:
        make(Path(name), options.exposures)
        candidates(Path(name), options.candidates, options.users)
        for what in ("users", "score"):
            for where in ("memory", "disk"):
                subprocess.run([sys.executable, __file__, "--measure", name, what, where], check=True)


if __name__ == "__main__":
    main()
