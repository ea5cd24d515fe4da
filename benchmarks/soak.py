"""Mixed rankings and events over HTTP for minutes, while models are swapped and histories are evicted.

    python benchmarks/soak.py RUN RUN [--minutes 10] [--rate 40]

The two runs are published by turns. Exits with 1 on any answer other than 200, a swap that did not
happen, no eviction, or a resident memory that grows: a slope over the last two thirds above 1 % a minute and above
three times its standard error.
"""

import argparse
import json
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from genrank.bench.load import Call, open_loop
from genrank.bench.serving import rank_calls, started
from genrank.client import Client
from genrank.serving.versions import publish

EVENTS_PER_RANKING = 0.5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs=2)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=40.0, help="requests a second")
    parser.add_argument("--swap-seconds", type=float, default=30.0, help="between two models")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        publish(options.runs[0], folder / "models")
        settings = ("cache_bytes=4000000", "decoded_bytes=2000000", "deadline=5.0", "threads=1")
        limits = [part for setting in settings for part in ("--set", setting)]
        with started(folder / "models", folder, *limits) as service:
            watch = Watch(service, options.runs, folder / "models", options.swap_seconds)
            heard = open_loop(service.url, calls(options.runs[0]), rate=options.rate, seconds=60 * options.minutes)
            watch.stop()
            counters = figures(service.url)
    statuses = {status: heard.count(status) for status in sorted(set(heard.status))}
    minutes, memory = np.array(watch.memory).T
    settled = minutes > options.minutes / 3
    (slope, _), covariance = np.polyfit(minutes[settled], memory[settled], 1, cov=True)
    error = float(covariance[0, 0] ** 0.5)
    evictions = counters["genrank_cache_evictions_total"]
    print(f"{len(heard.status):,} requests in {heard.lasted:.0f} s: {statuses} (0: no answer)")
    print(f"rankings and events together: p50 {heard.milliseconds(50):.1f} ms, p99 {heard.milliseconds(99):.1f} ms")
    print(f"{watch.swaps} models published, {watch.seen} of them seen ranking; {evictions:,.0f} evictions")
    print(
        f"resident memory: {memory[settled][0]:.0f} to {memory[-1]:.0f} MiB, "
        f"slope {slope:+.2f} ± {error:.2f} MiB a minute over the last two thirds"
    )
    grows = slope > 0.01 * memory[-1] and slope > 3 * error
    bad = set(statuses) != {200} or not evictions or watch.seen < watch.swaps - 1 or grows
    return int(bad)


def calls(run: Path) -> list[Call]:
    """Rankings, and between them an exposure or so of what was ranked, each a new one."""
    mixed, chance = [], np.random.default_rng(0)
    for turn in range(200):
        for ranking in rank_calls(run, 100, seed=turn)[:50]:
            mixed.append(ranking)
            if chance.random() < EVENTS_PER_RANKING:
                asked = json.loads(ranking.body)
                event = {"user": asked["user"], "item": asked["candidates"][0], "actions": {}}
                event["time"] = asked["time"] - 100_000 + turn
                mixed.append(Call("POST", "/v1/events", json.dumps({"events": [event]}).encode()))
    return mixed


class Watch:
    """Publishes by turns and notes the memory, in a thread of its own."""

    def __init__(self, service, runs: list[Path], models: Path, swap_seconds: float):
        self.service, self.runs, self.models, self.swap_seconds = service, runs, models, swap_seconds
        self.memory: list[tuple[float, float]] = []  # minutes, MiB
        self.swaps = self.seen = 0
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self) -> None:
        client, began, swapped, version = Client(self.service.url), time.monotonic(), time.monotonic(), ""
        while not self.stopping.wait(1.0):
            self.memory.append(((time.monotonic() - began) / 60, self.service.memory_mib()))
            if time.monotonic() - swapped > self.swap_seconds:
                self.seen += bool(version) and client.ready()["model"] == version
                swapped, self.swaps = time.monotonic(), self.swaps + 1
                version = publish(self.runs[self.swaps % 2], self.models)

    def stop(self) -> None:
        self.stopping.set()
        self.thread.join()


def figures(url: str) -> dict[str, float]:
    import urllib.request

    with urllib.request.urlopen(f"{url}/metrics") as page:
        lines = page.read().decode().splitlines()
    return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if not line.startswith("#")}


if __name__ == "__main__":
    sys.exit(main())
