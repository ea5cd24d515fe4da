"""Half an hour of mixed requests over HTTP, half of them of users never seen before, while models are swapped, items
are refreshed and caches are full.

    python benchmarks/soak.py RUN RUN [--minutes 30] [--rate 20] [--retriever RUN]

The two runs are published by turns. The first third is for warming up. Exits with 1 on any answer other than 200, a
swap that did not happen, no eviction, resident memory whose slope over the last two thirds is above 1 MiB a minute and
above three times its standard error, or a 99th percentile in the last third above 1.5 times that of the second.
"""

import argparse
import json
import random
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from genrank.bench.load import Call, LoadResult, open_loop
from genrank.bench.serving import rank_calls, started
from genrank.client import Client
from genrank.inference.published import publish

MAX_SLOPE = 1.0  # MiB a minute
MAX_RATIO = 1.5  # of two 99th percentiles
ITEMS = 50  # that one call refreshes
SHARES = {"rank": 0.55, "events": 0.25, "users": 0.1, "items": 0.05, "recommend": 0.05}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs=2)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--rate", type=float, default=20.0, help="requests a second")
    parser.add_argument("--swap-seconds", type=float, default=30.0, help="between two models")
    parser.add_argument("--retriever", type=Path, help="a retriever's run with an index; recommends too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        publish(options.runs[0], folder / "models")
        settings = ("cache_bytes=4000000", "decoded_bytes=2000000", "deadline=5.0", "threads=1")
        arguments = [part for setting in settings for part in ("--set", setting)]
        if options.retriever is not None:
            arguments += ["--retriever", str(options.retriever)]
        with started(folder / "models", folder, *arguments) as service:
            watch = Watch(service, options.runs, folder / "models", options.swap_seconds)
            traffic = Traffic(options.runs[0], recommends=options.retriever is not None)
            heard = open_loop(service.url, traffic, rate=options.rate, seconds=60 * options.minutes)
            watch.stop()
            counters = figures(service.url)
    return int(not (calm(heard, watch, counters) and flat(np.array(watch.memory), options.minutes)))


def calm(heard: LoadResult, watch: "Watch", counters: dict[str, float]) -> bool:
    """Prints how requests were answered; whether that was well and as fast at the end as before."""
    statuses = {status: heard.count(status) for status in sorted(set(heard.status))}
    evictions = counters["genrank_cache_evictions_total"]
    began, seconds = np.array(heard.began), np.array(heard.seconds)
    thirds = [seconds[(began >= low) & (began < high)]
              for low, high in zip(*np.array([[0, 1, 2], [1, 2, 3]]) * heard.lasted / 3, strict=True)]  # fmt: skip
    tails = [1e3 * float(np.percentile(third, 99)) if len(third) else float("nan") for third in thirds]
    ratio = tails[2] / tails[1]
    print(f"{len(heard.status):,} requests in {heard.lasted:.0f} s: {statuses} (0: no answer)")
    print(f"{watch.swaps} models published, {watch.seen} of them seen ranking; {evictions:,.0f} evictions")
    print(f"all requests together: p50 {heard.milliseconds(50):.1f} ms, p99 {heard.milliseconds(99):.1f} ms; "
          f"p99 by thirds {', '.join(f'{tail:.1f}' for tail in tails)} ms, last over second {ratio:.2f}")  # fmt: skip
    return set(statuses) == {200} and evictions > 0 and watch.seen >= watch.swaps - 1 and ratio <= MAX_RATIO


def flat(memory: np.ndarray, minutes: float) -> bool:
    """Prints how the resident memory went; whether it stayed. memory: (minutes, MiB) of every second."""
    times, sizes = memory[memory[:, 0] > minutes / 3].T
    (slope, _), covariance = np.polyfit(times, sizes, 1, cov=True)
    error = float(covariance[0, 0] ** 0.5)
    print(
        f"resident memory: {memory[0, 1]:.1f} MiB at first, {sizes[0]:.1f} after a third, {sizes[-1]:.1f} at the end, "
        f"{sizes.max():.1f} at most; slope {slope:+.2f} ± {error:.2f} MiB a minute over the last two thirds"
    )
    return not (slope > MAX_SLOPE and slope > 3 * error)


class Traffic(Sequence[Call]):
    """Calls without end, each made when it is asked for: half of the users have never been seen before."""

    def __init__(self, run: Path, *, recommends: bool):
        self.rankings = [json.loads(call.body) for turn in range(20) for call in rank_calls(run, 100, seed=turn)]
        self.items = sorted({item for ranking in self.rankings for item in ranking["candidates"]})
        shares = SHARES if recommends else {name: share for name, share in SHARES.items() if name != "recommend"}
        self.kinds, self.weights = list(shares), list(shares.values())

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, number: int) -> Call:  # type: ignore[override]  # nobody slices it
        chance = random.Random(number)
        (kind,) = chance.choices(self.kinds, self.weights)
        ranking = self.rankings[chance.randrange(len(self.rankings))]
        user = ranking["user"] if chance.random() < 0.5 else f"never seen before, number {number:012d}"
        if kind == "rank":
            return _call("POST", "/v1/rank", ranking | {"user": user})
        if kind == "events":
            event = {"user": user, "item": chance.choice(self.items), "time": ranking["time"] - chance.randrange(10**5)}
            return _call("POST", "/v1/events", {"events": [event | {"actions": {}}]})
        if kind == "users":
            return Call("GET", f"/v1/users/{user.replace(' ', '%20')}", b"")
        if kind == "items":
            chosen = chance.sample(self.items, min(ITEMS, len(self.items)))
            return _call("PUT", "/v1/items", {"items": [{"item": item} for item in chosen]})
        return _call("POST", "/v1/recommend", {"user": user, "time": ranking["time"], "k": 100})


def _call(method: str, path: str, body: dict[str, object]) -> Call:
    return Call(method, path, json.dumps(body).encode())


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
