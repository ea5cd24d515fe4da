"""Nobody fills the memory: not with users, not with items."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
USERS = 30_000

REFRESHES = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from many_users import resident_mib
from genrank.server.ranking_service import RankingService
from genrank.server.service_options import ServiceOptions
from genrank.server.retrieval_service import RetrievalService
from genrank.artifacts.bundle import load_bundle
from genrank.inference.catalogue import Item
from genrank.inference.sqlite_store import SQLiteStore

options = ServiceOptions(cache_bytes=10_000_000, decoded_bytes=10_000_000)
service = RankingService(load_bundle(Path(sys.argv[2])), store=SQLiteStore(sys.argv[3]), options=options)
if len(sys.argv) > 4:
    retrieval = RetrievalService(Path(sys.argv[4]), contexts=service.contexts, options=options)
    service.readers.append(retrieval.catch_up)
for turn in range(200):
    items = [Item(id=f"item {number}", features={"topic": f"topic {turn % 7}"}) for number in range(1000)]
    assert service.put_items(items) == (1000 if turn == 0 else 0)
    if turn == 59:
        before = resident_mib()
print(resident_mib() - before)
"""


@pytest.mark.slow
def test_unknown_users_cost_no_memory(run: Path, record_property: Callable[[str, str], None]) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "many_users.py"), str(run), "--users", str(USERS)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    record_property(f"{USERS} users", f"grown by {found['grown_mib']} MiB at most, from {found['before_mib']}")
    assert found["grown_mib"] < 24  # 9 KB each would be 270; the caches, nearly empty at first, take 20 MB


@pytest.mark.slow
@pytest.mark.parametrize("retrieves", [False, True])
def test_refreshing_the_same_items_costs_no_memory(
    retrieves: bool, run: Path, grank: Path, tmp_path: Path, record_property: Callable[[str, str], None]
) -> None:
    command = [sys.executable, "-c", REFRESHES, str(ROOT / "benchmarks"), str(run), str(tmp_path / "events.sqlite")]
    command += [str(grank)] if retrieves else []
    grown = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    record_property("140 refreshes of 1,000 items" + " with a retriever" * retrieves, f"grown by {grown:.1f} MiB")
    assert grown < 8  # the updates of each, kept, would be 0.3
