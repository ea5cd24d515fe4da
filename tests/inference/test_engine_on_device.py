"""An engine whose model, cache and batches lie on an accelerator, on a machine without one: see host_waits.py."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from genrank.inference import ranking_engine
from genrank.inference.ranking_engine import RankingEngine
from genrank.inference.sizes import DEVICE_BLOCK, TENSOR, held_bytes
from genrank.inference.sqlite_store import SQLiteStore
from host_waits import HostWaits, pretend_cuda
from served_feed import ServedFeed

META = torch.device("meta")
NAMES = ("genrank", "alibi-both", "user-prefix", "one-block", "hstu", "hstu-user-prefix", "interleaved", "sim-soft")
NAMES += ("hstu-sim", "slot-and-clock", "ppnet", "d2q", "quantile", "mlp", "din")


@pytest.fixture(scope="module")
def served(data: Path) -> ServedFeed:
    return ServedFeed(data)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[list[Tensor]]:
    """Answers are read once for all tasks, and lie on the device until then."""
    pretend_cuda(monkeypatch)
    found: list[list[Tensor]] = []

    def read(columns: Sequence[Tensor]) -> list[np.ndarray]:
        found.append(list(columns))
        return [np.zeros(len(column)) for column in columns]

    monkeypatch.setattr(ranking_engine, "read", read)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_the_host_waits_for_nothing_but_the_answers_and_mixes_no_devices(
    name: str, served: ServedFeed, reads: list[list[Tensor]], tmp_path: Path
) -> None:
    model, store = served.ranker(name), SQLiteStore(tmp_path / "events.sqlite")
    engine = served.engine(model.to(META), store, device=META)
    asked = list({request.user: (rows, request) for rows, request in served.requests(model)}.values())[:4]
    requests = [request for _, request in asked]
    engine.score(requests)  # copies constants, once
    engine.cache.remove_where(lambda _: True)
    reads.clear()
    new, past = [], []
    for round_ in ("nothing is kept", "some users have new events", "all is kept"):
        if round_ == "some users have new events":
            for rows, request in asked[:2]:
                events = served.events(request.user, rows)
                store.append([dataclasses.replace(e, time=request.time - 1, id=f"{n}") for n, e in enumerate(events)])
        with HostWaits() as waits:
            found = engine.score(requests)
        assert waits.found == []
        assert waits.operators["_to_copy"] + waits.operators["copy_"] > 0
        new.append(sum(each.num_encoded for each in found))
        past.append(sum(each.num_history for each in found))
    assert len(reads) == 3
    assert all(column.device == META for columns in reads for column in columns)
    if name not in ("mlp", "din"):
        assert new[0] == past[0] > new[1] > new[2]


def kept_tensors(engine: RankingEngine) -> Iterator[Tensor]:
    for (_, user), kept in engine.cache._entries.items():
        assert user
        state = kept[0].state if isinstance(kept, tuple) else kept.state
        yield from (state.context.offsets, state.context.position, state.context.time)
        for block in state.keys_values:
            yield from block


@pytest.mark.usefixtures("reads")
@pytest.mark.parametrize("name", ["genrank", "interleaved", "user-prefix"])
def test_the_cache_holds_no_batch_alive(name: str, served: ServedFeed) -> None:
    """A batch comes in one piece, and what is kept of it must not be a view of that."""
    model = served.ranker(name)
    engine = served.engine(model.to(META), None, device=META)
    engine.score([request for _, request in served.requests(model)][:12])
    tensors = list(kept_tensors(engine))
    assert len(tensors) > 20
    assert all(tensor.device == META for tensor in tensors)
    for tensor in tensors:
        assert tensor.untyped_storage().nbytes() <= 2 * tensor.nbytes  # keys and values are made together


def test_bytes_on_a_device_are_counted_as_its_allocator_takes_them() -> None:
    for numbers, blocks in ((1, 1), (128, 1), (129, 2), (1000, 8)):
        assert held_bytes(torch.zeros(numbers, device=META)) == TENSOR + DEVICE_BLOCK * blocks
        assert held_bytes(torch.zeros(numbers)) == TENSOR + 4 * numbers


def test_a_batch_for_cuda_is_pinned_in_one_piece(served: ServedFeed, monkeypatch: pytest.MonkeyPatch) -> None:
    model = served.ranker("genrank")
    engine, pinned = served.engine(model, None), []
    whole = ranking_engine.in_one_block

    def in_one_block(batch: Any, *, pin: bool) -> Any:
        pinned.append(pin)
        return whole(batch, pin=False)

    request = next(iter(served.requests(model)))[1]
    expected = engine.score([request])[0]
    monkeypatch.setattr(ranking_engine, "in_one_block", in_one_block)
    monkeypatch.setattr(ranking_engine.PackedBatch, "to", lambda batch, device: batch)
    for device, pins in (("cpu", []), ("cuda", [True])):
        engine.device = torch.device(device)
        builder = engine.histories.builder(
            [engine._asked(engine.histories.of(request.user), request)], engine.sequence, model.config.search
        )
        batch = engine._batch(builder, builder.samples())
        assert pinned == pins
        assert len(batch.candidates.item) == len(expected.scores["click"])
        assert (batch.block is None) == (device == "cpu")
