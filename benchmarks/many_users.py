"""What a million distinct users cost in memory: rankings, look-ups and events of people whom nobody knows.

    python benchmarks/many_users.py RUN [--users 1000000] [--retriever RUN]

In one process, without the web: every user is ranked one candidate and looked up, one in fifty sends an event and is
ranked again, and one in a hundred, with --retriever, is retrieved for. `cache_bytes` and `decoded_bytes` are 10 MB.
Prints one JSON line: users, resident MiB when 2 % of them were there, most and at the end, and their difference.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from genrank.artifacts.bundle import load_bundle
from genrank.inference.pipeline import Pipeline
from genrank.inference.sqlite_store import SQLiteStore
from genrank.inference.stages import OrderStage, StageCandidates
from genrank.inference.store import Event
from genrank.server.query import PipelineQuery
from genrank.server.ranking_service import RankingService
from genrank.server.retrieval_service import RetrievalService
from genrank.server.service_options import ServiceOptions

BATCH = 500


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--retriever", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        service = RankingService(
            load_bundle(options.run),
            store=SQLiteStore(Path(folder) / "events.sqlite"),
            options=ServiceOptions(cache_bytes=10_000_000, decoded_bytes=10_000_000, deadline=600.0),
        )
        retrieval = None
        if options.retriever is not None:
            retrieval = RetrievalService(options.retriever, contexts=service.contexts, options=service.options)
        began, before, most = time.perf_counter(), 0.0, 0.0
        for first in range(0, options.users, BATCH):
            serve([f"never seen, number {number:012d}" for number in range(first, first + BATCH)], service, retrieval)
            if first <= options.users // 50:
                before = most = resident_mib()
            most = max(most, resident_mib())
            if first % (options.users // 20 // BATCH * BATCH or BATCH) == 0:
                print(f"{first + BATCH:,} users: {resident_mib():.1f} MiB", file=sys.stderr, flush=True)
        found = {"users": options.users, "seconds": round(time.perf_counter() - began), "before_mib": round(before, 1),
                 "most_mib": round(most, 1), "after_mib": round(resident_mib(), 1)}  # fmt: skip
        if retrieval is not None:
            retrieval.stop()
        service.stop()
    print(json.dumps(found | {"grown_mib": round(found["most_mib"] - found["before_mib"], 1)}))
    return 0


def serve(users: list[str], service: RankingService, retrieval: RetrievalService | None) -> None:
    """What a batch of users does."""
    item = str(service.deployed.context.catalogue.table.ids[1])
    when = service.deployed.bundle.manifest.split.last_time + 1
    rank(users, service, item, when)
    for user in users:
        service.user(user)
    service.take_events([Event(user=user, item=item, time=when - 1) for user in users[::50]])
    rank(users[::50], service, item, when)
    if retrieval is not None:
        for user in users[::100]:
            retrieval.retrieve(PipelineQuery(user=user, k=10, time=when)).result()


def rank(users: list[str], service: RankingService, item: str, when: int) -> None:
    """One candidate for each, in one batch."""
    deployed, candidates = service.deployed, StageCandidates.given((item,))
    queries = (PipelineQuery(user=user, candidates=(item,)) for user in users)
    requests = [deployed.request(query, candidates, time=when) for query in queries]
    Pipeline([deployed.stage, OrderStage()]).run(requests, [candidates] * len(requests))


def resident_mib() -> float:
    """Of this process."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    sys.exit(main())
