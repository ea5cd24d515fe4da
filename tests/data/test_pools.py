"""A log that is read in pools of users: batches, resuming, and how much of it is in memory."""

import gc
import itertools
import json
import time
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from amounts import sampled
from exposure_logs import START, log, prepare_log
from genrank.batch import PackedBatch, map_arrays
from genrank.data import pools
from genrank.data.loader import Loader, LoaderConfig
from genrank.data.pooled_loader import PooledLoader
from genrank.data.pools import StoredData, StoredPart
from genrank.data.prepared import PreparedData
from genrank.data.sequence import SequenceConfig, take
from genrank.errors import DataError
from genrank.preparation.prepare import PrepareOptions

USERS, ROWS = 24, 600
LOADING = LoaderConfig(batch_tokens=40, bucket_batches=2, seed=3)
POOLED = replace(LOADING, max_exposures=599)  # pools of 149 exposures
SEQUENCE = SequenceConfig(max_history=8, grouping="request")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    times = [START + row // 60 * 86_400 + row for row in range(ROWS)]  # ten days
    rows = log(ROWS, user=[f"u{row % USERS}" for row in range(ROWS)], time=times)
    options = PrepareOptions(threads=2, memory_limit="1GB", num_buckets=8)
    return prepare_log(tmp_path_factory.mktemp("pools"), rows, options=options).folder


def loader(folder: Path, config: LoaderConfig = POOLED, *, share: float = 1.0, **sequence) -> PooledLoader:
    part = StoredPart(
        data=StoredData.open(folder), part="train", sequence=replace(SEQUENCE, **sequence), loading=config
    )
    return PooledLoader(part, share=share)


def whole(folder: Path, config: LoaderConfig = LOADING, **sequence) -> Loader:
    data = PreparedData.load(folder)
    builder = data.builder(replace(SEQUENCE, **sequence))
    return Loader(builder, data.part(builder, "train"), config)


def bytes_of(batch: PackedBatch) -> list[bytes]:
    parts: list[bytes] = []
    map_arrays(batch, lambda array: parts.append(np.ascontiguousarray(array).tobytes()))
    return parts


def shown(batches: list[PackedBatch]) -> list[int]:
    """The time of every candidate: in this log a second has one exposure."""
    return sorted(second for batch in batches for second in batch.candidates.time.tolist())


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_log_that_fits_is_one_pool_with_the_batches_of_the_plain_loader(folder: Path, shuffle: bool) -> None:
    config = replace(LOADING, shuffle=shuffle)
    pooled, plain = loader(folder, config), whole(folder, config)
    assert len(pooled.pools()) == 1
    for _ in range(2):
        assert len(pooled) == len(plain)
        assert [bytes_of(batch) for batch in pooled] == [bytes_of(batch) for batch in plain]


def test_an_epoch_over_pools_has_every_exposure_once_and_as_many_batches_as_planned(folder: Path) -> None:
    pooled, everything = loader(folder), shown(list(whole(folder)))
    epochs = []
    for _ in range(3):
        planned, buckets = len(pooled), pooled.pools()
        batches = list(pooled)
        assert len(buckets) > 2
        assert len(batches) == planned
        assert shown(batches) == everything
        for batch in batches:
            assert len(batch.history.item) + len(batch.candidates.item) <= 40
        epochs.append((buckets, [bytes_of(batch) for batch in batches]))
    assert epochs[0] != epochs[1] != epochs[2]
    assert epochs[0][0] != epochs[1][0]


@pytest.mark.parametrize("config", [LOADING, POOLED, replace(POOLED, shuffle=False)])
def test_a_pooled_loader_stopped_at_any_batch_goes_on_as_if_it_had_not(folder: Path, config: LoaderConfig) -> None:
    uninterrupted, states = [], []
    loading = loader(folder, config)
    for _ in range(2):
        for batch in loading:
            uninterrupted.append(bytes_of(batch))
            states.append(json.loads(json.dumps(loading.state())))
    for done, state in sampled(list(enumerate(states, start=1)), every=5):
        resumed = loader(folder, config)
        resumed.restore(state)
        wanted = uninterrupted[done:] if done % 16 == 1 else uninterrupted[done : done + 2]
        coming = itertools.chain.from_iterable(itertools.repeat(resumed, 2))  # epoch after epoch
        assert [bytes_of(batch) for batch in itertools.islice(coming, len(wanted))] == wanted


def test_a_state_of_other_data_or_other_pools_is_refused(folder: Path, tmp_path: Path) -> None:
    state = loader(folder).state()
    other = prepare_log(tmp_path, log(ROWS)).folder
    with pytest.raises(ValueError, match="folder was"):
        loader(other).restore(state)
    with pytest.raises(ValueError, match="max_exposures was 599 and is 400"):
        loader(folder, replace(POOLED, max_exposures=400)).restore(state)
    with pytest.raises(ValueError, match="version was None"):
        loader(folder).restore(whole(folder).state())
    with pytest.raises(ValueError, match="read in pools"):
        whole(folder).restore(state)


def test_memory_holds_the_stated_exposures_and_no_more(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[weakref.ref] = []
    held: list[int] = []  # exposures in memory, as a pool has been read
    load = pools.load_buckets

    def counted(*arguments):
        found = load(*arguments)
        alive.append(weakref.ref(found))
        held.append(sum(t.num_exposures for ref in alive if (t := ref()) is not None))
        return found

    monkeypatch.setattr(pools, "load_buckets", counted)
    gc.disable()
    try:
        loading = loader(folder)
        assert max(held) <= ROWS // 8 + 10  # sizes are counted in one bucket after another
        for _ in range(2):
            before = len(alive)
            for _batch in loading:
                while len(alive) < before + min(loading.pool + 2, len(loading.pools())):
                    time.sleep(0.001)  # until the next pool has been read too
    finally:
        gc.enable()
    assert POOLED.max_exposures // 4 < max(held) <= POOLED.max_exposures // 2  # the other half is for validation


def test_a_share_of_the_users_is_the_same_in_pools(folder: Path) -> None:
    one = shown(list(loader(folder, LOADING, share=0.4)))
    assert one == shown(list(loader(folder, share=0.4)))
    assert 0 < len(one) < 0.6 * len(shown(list(whole(folder))))


def test_without_shuffling_days_are_outermost_then_pools_then_time(folder: Path) -> None:
    pooled, plain = loader(folder, replace(POOLED, shuffle=False)), whole(folder)
    buckets = StoredData.open(folder).pools(POOLED.max_exposures)
    days = sorted({int(second) // 86_400 for second in plain.sizes.time})
    windows = [(begin // 86_400, end // 86_400) for begin, end in pooled.windows]
    assert len(windows) > 2
    assert [day for window in windows for day in range(*window)] == list(range(days[0], days[-1] + 1))
    user_index = {int(user): index for index, user in enumerate(plain.builder.timelines.users)}
    wanted = []
    for begin, end in windows:
        for pool in buckets:
            users = {user_index[int(user)] for user in pooled.part.data.load(pool).users}
            inside = (plain.samples.time // 86_400 >= begin) & (plain.samples.time // 86_400 < end)
            chosen = np.flatnonzero(inside & np.isin(plain.samples.user, list(users)))
            wanted += take(plain.samples, chosen).time.tolist()
    for _ in range(2):  # each epoch is the same
        planned = len(pooled)
        batches = list(pooled)
        assert len(batches) == planned
        assert shown(batches) == shown(list(whole(folder)))
        assert [second for batch in batches for second in batch.candidates.time.tolist()] == wanted


def test_a_label_that_is_learned_once_is_in_the_same_sample_in_pools(folder: Path) -> None:
    once = {"loss_on_history": True, "labels_once": True}

    def samples(batches: list[PackedBatch]) -> list[tuple[int, ...]]:
        return sorted(
            tuple(batch.candidates.time[begin:end].tolist())
            for batch in batches
            for begin, end in itertools.pairwise(batch.candidates.offsets.tolist())
        )

    pooled, plain = loader(folder, **once), whole(folder, **once)
    planned, batches = len(pooled), list(pooled)
    assert len(batches) == planned
    assert samples(batches) == samples(list(plain))
    assert shown(batches) == shown(list(whole(folder)))
    drawn = [len(sample) for sample in samples(batches)]
    assert max(drawn) > 1  # some labels are learned as history


def test_a_part_that_no_pool_has_samples_of_is_named_with_the_remedy(folder: Path) -> None:
    data = StoredData.open(folder)
    split = replace(data.manifest.split, test_start=2**40)
    late = replace(data, manifest=replace(data.manifest, split=split))
    part = StoredPart(data=late, part="test", sequence=SEQUENCE, loading=POOLED)
    loaders = iter(part)
    assert [len(next(loaders)) for _ in late.pools(POOLED.max_exposures)] == [0] * len(late.pools(599))
    refused = "the part 'test' holds no exposures; prepare with another"
    with pytest.raises(DataError, match=refused):
        next(loaders)
    with pytest.raises(DataError, match=refused):
        part.sizes()


def test_a_bucket_larger_than_a_pool_is_a_pool_of_its_own_in_the_given_order(folder: Path) -> None:
    data = replace(StoredData.open(folder), rows=(10, 60, 10, 30, 30, 10))
    assert data.pools(149) == [(0,), (1,), (2,), (3,), (4,), (5,)]
    data = replace(data, rows=(10, 60, 10, 30, 30, 10, 130))
    assert data.pools(160) == [(0,), (1,), (2, 3), (4, 5), (6,)]
    assert data.pools(160, [6, 5, 1, 3, 0, 2, 4]) == [(6,), (5,), (1,), (0, 3), (2, 4)]
    assert data.pools(280, [6, 5, 4, 3, 2, 1, 0]) == [(0, 1, 2, 3, 4, 5, 6)]


def test_a_bucket_larger_than_a_pool_is_warned_of_with_the_number_that_fits(folder: Path, tmp_path: Path) -> None:
    data = StoredData.open(folder)
    assert data.too_large(ROWS) == ""  # all of it is in memory
    assert data.too_large(4 * max(data.rows)) == ""
    warning = data.too_large(200)
    assert f"up to {4 * max(data.rows)} are in memory instead of loader.max_exposures=200" in warning
    number = int(warning.rpartition(" ")[2])
    times = [START + row // 60 * 86_400 + row for row in range(ROWS)]
    rows = log(ROWS, user=[f"u{row % USERS}" for row in range(ROWS)], time=times)
    options = PrepareOptions(threads=2, memory_limit="1GB", num_buckets=number)
    again = StoredData.open(prepare_log(tmp_path, rows, options=options).folder)
    assert again.too_large(200) == ""


def test_the_state_is_a_few_numbers_however_large_the_log(folder: Path) -> None:
    loading = loader(folder)
    next(iter(loading))
    state = loading.state()
    assert {"version", "folder", "max_exposures", "epoch", "pool", "next_batch"} == state.keys()
    assert len(json.dumps(state)) < 200
