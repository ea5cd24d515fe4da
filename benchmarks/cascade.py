"""/v1/recommend beside /v1/retrieve and /v1/rank called one after the other, over HTTP, by one caller.

    python benchmarks/cascade.py RANKER RETRIEVER [--requests 300] [--k 500]

RANKER and RETRIEVER are runs of the same prepared data, RETRIEVER with an index. Calls take turns, user by user, so
that a busy neighbour slows all three. Exits with 1 where an answer differs from that of the stages, or where the 99th
percentile lies above the sum of theirs.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from genrank.artifacts.bundle import load_bundle
from genrank.bench.serving import started
from genrank.client import Client
from genrank.data.prepared import PreparedData

NUM_USERS = 100
TOP = 50


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ranker", type=Path)
    parser.add_argument("retriever", type=Path)
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--k", type=int, default=500)
    options = parser.parse_args()
    data = PreparedData.load(Path(load_bundle(options.ranker).config.data))
    busiest = np.argsort(-data.users.train_count, kind="stable")[:NUM_USERS]
    users = [str(data.users.ids[int(row)]) for row in busiest if row]
    when = data.manifest.split.last_time + 1
    taken: dict[str, list[float]] = {"retrieve": [], "rank": [], "recommend": []}
    different = 0
    with tempfile.TemporaryDirectory() as folder:
        settings = ("--retriever", str(options.retriever), "--set", "deadline=10.0")
        with started(options.ranker, Path(folder), *settings) as service:
            client = Client(service.url, timeout=60)
            for number in range(len(users) + options.requests):
                user = users[number % len(users)]
                counted = number >= len(users)  # every user once, so that histories are kept
                stages = {name: [] if not counted else times for name, times in taken.items()}
                found = timed(stages["retrieve"], lambda u=user: client.retrieve(u, k=options.k, time=when))
                items = [each["item"] for each in found["items"]]
                ranked = timed(stages["rank"], lambda u=user, i=items: client.rank(u, i, time=when, top_k=TOP))
                whole = timed(
                    stages["recommend"], lambda u=user: client.recommend(u, k=options.k, top_k=TOP, time=when)
                )
                different += whole["ranking"]["places"] != ranked["places"]
    at = {name: np.percentile(times, (50, 99)) for name, times in taken.items()}
    for name, (middle, high) in at.items():
        print(f"{name:10} p50 {middle:6.1f} ms   p99 {high:6.1f} ms")
    both = at["retrieve"] + at["rank"]
    print(f"{'both':10} p50 {both[0]:6.1f} ms   p99 {both[1]:6.1f} ms   (sums)")
    print(f"{options.requests} recommendations of {len(data.items) - 1:,} items, {different} unlike their stages'")
    return int(bool(different) or at["recommend"][1] > both[1])


def timed(times: list[float], call: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    began = time.perf_counter()
    answer = call()
    times.append(1e3 * (time.perf_counter() - began))
    return answer


if __name__ == "__main__":
    sys.exit(main())
