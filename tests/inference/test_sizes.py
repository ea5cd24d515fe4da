"""What the caches count is what they hold."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from amounts import mostly_slow
from genrank.inference.catalogue import Catalogue
from genrank.inference.histories import Histories
from genrank.inference.pasts import NoPast
from genrank.inference.sqlite_store import SQLiteStore
from genrank.inference.store import Event
from served_feed import ServedFeed

MEASURED = """
import sys
import numpy as np
import torch
from genrank.data.prepared import PreparedData
from genrank.data.timelines import Timelines
from genrank.nn.attention import Tokens
from genrank.nn.blocks import KeysValues
from genrank.nn.kv_cache import KVCache
from genrank.inference.cache import ByteBudgetCache
from genrank.inference.ranking_engine import KeptHistory
from genrank.inference.histories import UserHistory
from genrank.inference.sizes import entry_bytes
from pathlib import Path

what, count, events = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
spec = PreparedData.load(Path(sys.argv[4])).manifest.spec


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def encoded(user):
    both = [torch.ones(events, 2, 2, 8) for _ in range(3)]
    blocks = tuple(KeysValues(each[:, 0], each[:, 1]) for each in both)
    tokens = Tokens(torch.tensor([0, events]), torch.arange(events), torch.zeros(events, dtype=torch.int64))
    state = KVCache(tokens, blocks, torch.zeros(1, 16), 0, 1)
    return KeptHistory(begin=0, stamps=np.zeros((events, 5), np.int64), state=state)


def decoded(user):
    timeline = Timelines.empty(spec, 0).take(np.zeros(0, np.int64))
    timeline = like(timeline)
    return (user, 0), UserHistory(user=str(user), row=0, timeline=timeline, stamps=np.zeros((events, 3), np.int64))


def like(timeline):
    from genrank.data.request import exposures
    return exposures(timeline, events, time=0, request=0, item=0, features={f.name: np.zeros(events, np.int32)
                     for f in spec.of("exposure")}).take(np.arange(events))


made = {"encoded": encoded, "decoded": decoded}[what]
with torch.no_grad():
    cache = ByteBudgetCache(2**40, size=entry_bytes)
    for user in range(200):
        cache.put(("version", f"warm-{user}"), made(user))
    before, counted = resident(), cache.counts().num_bytes
    for user in range(count):
        cache.put(("version", f"user-{user:020d}"), made(user))
print((cache.counts().num_bytes - counted) / (resident() - before))
"""


ENTRIES = {"encoded, none": 8000, "encoded, 60": 4000, "decoded, 1": 12000, "decoded, 200": 4000}


@pytest.mark.parametrize("entries", mostly_slow(ENTRIES, often=["decoded, 200"]))
def test_counted_bytes_are_the_memory_that_entries_hold(
    entries: str, data: Path, record_property: Callable[[str, str], None]
) -> None:
    what, _, number = entries.partition(", ")
    count, events = ENTRIES[entries], 0 if number == "none" else int(number)
    command = [sys.executable, "-c", MEASURED, what, str(count), str(events), str(data)]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    ratio = float(found.stdout)
    record_property(f"{what}, {events} events", f"counted over resident {ratio:.2f}")
    assert 1.0 <= ratio < 1.3


def test_nothing_is_kept_of_a_user_of_whom_nothing_is_known(data: Path) -> None:
    served = ServedFeed(data)
    store = SQLiteStore(":memory:")
    catalogue = Catalogue(served.data.items, data, served.data.manifest)
    histories = Histories(data, served.data.manifest, past=NoPast(served.spec), catalogue=catalogue,
                          users=served.data.users, store=store)  # fmt: skip
    known = str(served.data.users.ids[1])
    for user in [*(f"nobody {number}" for number in range(50)), known]:
        assert histories.of(user).user == user
    assert histories._kept.counts().entries == 1
    store.append([Event(user="nobody 7", item="i", time=10)])
    assert histories.of("nobody 7").timeline.num_exposures == 1
    assert histories._kept.counts().entries == 2
