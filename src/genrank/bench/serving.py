"""The load that the ranking service can handle, over HTTP on this machine's loopback.

The service runs in a separate process, as `genrank serve` starts it; the load comes from this process and shares the
machine's cores with it. Its model is the demo's, trained for an epoch on a small simulated feed, or a given run. At
half of the saturating load requests come at random times, and are timed from when they should have been sent.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from genrank.artifacts.bundle import load_bundle
from genrank.bench.bench_options import BenchOptions
from genrank.bench.feeds import prepare_feed
from genrank.bench.load import Call, closed_loop, open_loop
from genrank.data.prepared import PreparedData
from genrank.errors import GenRankError
from genrank.recipes import recipe
from genrank.runs.train import start_run, train
from genrank.simulation import simulate

DEFAULT_MINUTES = 3.0
CONNECTIONS = 8  # of the closed loop
NUM_USERS = 200  # whose requests are repeated
OVERLOAD = 3.0  # times the saturating load
RECOVERY = 2.0  # seconds after an overload until full speed


def serving(options: BenchOptions, say: Callable[[str], None]) -> dict[str, Any]:
    """`requests_per_second`, `p50_ms`, `p99_ms`, `errors`, and figures of an overload."""
    count = options.sizes.served_candidates
    with tempfile.TemporaryDirectory(prefix="genrank-bench-") as folder:
        run = options.run
        if run is None:
            say("a feed and a model")
            run = _demo_run(Path(folder), options)
        calls = rank_calls(run, count, seed=options.seed)
        with started(run, Path(folder)) as service:
            say("warming up")
            closed_loop(service.url, calls, connections=1, seconds=60, limit=2 * len(calls))
            return _measure(service, calls, options, say) | {"candidates": count}


def _measure(
    service: "Service", calls: Sequence[Call], options: BenchOptions, say: Callable[[str], None]
) -> dict[str, Any]:
    def seconds(share: float) -> float:
        return max(options.seconds(DEFAULT_MINUTES, share), 0.5)

    say("the saturating load")
    full = closed_loop(service.url, calls, connections=CONNECTIONS, seconds=seconds(0.2))
    if not full.count(200):
        raise GenRankError(
            f"the service answered no request with 200 (statuses {sorted(set(full.status))}); see its log"
        )
    say("half of it")
    half = open_loop(service.url, calls, rate=full.rate / 2, seconds=seconds(0.3), seed=options.seed)
    say(f"{OVERLOAD:g} times of it")
    before = service.memory_mib()
    over = open_loop(service.url, calls, rate=OVERLOAD * full.rate, seconds=seconds(1 / 3), seed=options.seed)
    say("after it")
    after = open_loop(service.url, calls, rate=full.rate / 2, seconds=max(seconds(0.1), 2 * RECOVERY))
    settled = after.milliseconds(50, since=RECOVERY)
    return {
        "requests_per_second": full.rate,
        "p50_ms": half.milliseconds(50),
        "p99_ms": half.milliseconds(99),
        "p99_over_p50": half.milliseconds(99) / half.milliseconds(50),
        "errors": full.errors + half.errors + over.errors + after.errors,
        "refused_at_half": half.count(503),
        "requests": sum(len(heard.status) for heard in (full, half, over, after)),
        "overload": {
            "seconds": over.lasted,
            "sent_per_second": len(over.status) / over.lasted,
            "answered_per_second": over.rate,
            "answered_p50_ms": over.milliseconds(50),
            "answered_p99_ms": over.milliseconds(99),
            "refused_p50_ms": over.milliseconds(50, status=503),
            "refused_p99_ms": over.milliseconds(99, status=503),
            "refused_share": over.count(503) / len(over.status),
            "memory_before_mib": before,
            "memory_after_mib": service.memory_mib(),
            "p50_ms_from_2_s_after": settled,
            "refused_from_2_s_after": after.refused(since=RECOVERY),
        },
    }


class Service:
    """A running `genrank serve` in a process of its own."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path):
        self.process, self.log = process, log
        self.url = self._address()

    def _address(self) -> str:
        until = time.monotonic() + 120
        while self.process.poll() is None and time.monotonic() < until:
            for line in self.log.read_text(encoding="utf-8").splitlines():
                if " on http://" in line:
                    return line.split(" on ")[1].split(" ")[0]
            time.sleep(0.05)
        raise GenRankError(f"the service did not start: {self.log.read_text(encoding='utf-8')[-500:]}")

    def memory_mib(self) -> float:
        """Its resident memory; NaN if the system doesn't report it."""
        try:
            pages = int(Path(f"/proc/{self.process.pid}/statm").read_text(encoding="ascii").split()[1])
        except (OSError, ValueError, IndexError):
            return float("nan")
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@contextmanager
def started(run: Path, folder: Path, *arguments: str) -> Iterator[Service]:
    """`genrank serve RUN` on a free port, with its events in `folder`; stopped at the end."""
    log = folder / "service.log"
    command = [sys.executable, "-m", "genrank", "serve", str(run), "--port", "0", "--store", str(folder / "events")]
    with log.open("wb") as stderr:
        process = subprocess.Popen([*command, *arguments], stderr=stderr)
    try:
        yield Service(process, log)
    finally:
        process.terminate()
        process.wait(60)


def rank_calls(run: Path, num_candidates: int, *, seed: int) -> list[Call]:
    """A ranking request for each of NUM_USERS active users, just after the end of the run's log."""
    bundle = load_bundle(run)
    data = PreparedData.load(Path(bundle.config.data))
    chance = np.random.default_rng(seed)
    users = np.argsort(-data.users.train_count, kind="stable")[:NUM_USERS]
    names = [str(data.users.ids[int(row)]) for row in users if row]
    items = np.array(data.items.ids.to_pylist())[1:]
    calls = []
    for user in names:
        chosen = chance.choice(items, min(num_candidates, len(items)), replace=False).tolist()
        body = {"user": user, "candidates": chosen, "time": data.manifest.split.last_time + 1, "top_k": 50}
        calls.append(Call("POST", "/v1/rank", json.dumps(body).encode()))
    return calls


def _demo_run(folder: Path, options: BenchOptions) -> Path:
    from rich.console import Console

    simulate(replace(options.sizes.world, seed=options.seed), folder / "feed")
    prepare_feed(folder / "feed", folder / "data")
    config = recipe("genrank-demo")
    start_run(folder / "data", replace(config, training=replace(config.training, epochs=1)), folder / "run")
    train(folder / "run", Console(quiet=True))
    return folder / "run"
