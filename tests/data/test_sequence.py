from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from amounts import examples
from genrank.batch import Jagged, PackedBatch, map_arrays
from genrank.data.loader import Loader, LoaderConfig
from genrank.data.request import with_request
from genrank.data.sequence import SequenceBuilder, SequenceConfig, take, window_start
from genrank.data.timelines import Timelines, gather, joined
from worlds import builder, timelines

GROUPINGS = ["request", "user", "pointwise", "1h", "1d"]


def bytes_of(batch: PackedBatch) -> list[bytes]:
    parts: list[bytes] = []
    map_arrays(batch, lambda array: parts.append(np.ascontiguousarray(array).tobytes()))
    return parts


def batch_of_request(b: SequenceBuilder, row: int) -> PackedBatch:
    """The unpacked batch of the request that `row` belongs to, without what it should predict."""
    rows = np.flatnonzero(b.request_key == b.request_key[row])
    batch = b.batch(b.request(rows))
    return replace(batch, candidates=replace(batch.candidates, labels={}, censored={}))


def known_later(t: Timelines, seed: int) -> Timelines:
    """The same exposures, each known up to 300 seconds after its time, in the order of known times."""
    known_at = t.time + np.random.default_rng(seed).integers(0, 300, t.num_exposures) * (seed % 3 > 0)
    return in_order(replace(t, known_at=known_at))


def in_order(t: Timelines) -> Timelines:
    """Every user's exposures in the order of known times."""
    parts = []
    for user in range(len(t.users)):
        one = t.of_user(user)
        parts.append(one.take(np.lexsort((one.position, one.request, one.time, one.known_time))))
    return joined(parts)


def without_rows(batch: PackedBatch) -> PackedBatch:
    """Without the rows of the timelines, which shift when other rows go."""
    return replace(batch, candidates=replace(batch.candidates, exposure=np.zeros(0, np.int64)))


@examples(150, 40)
@given(seed=st.integers(0, 10_000), length=st.integers(2, 30), pick=st.integers(0, 10_000))
def test_no_event_known_at_or_after_a_request_reaches_it(seed: int, length: int, pick: int) -> None:
    t = known_later(timelines(lengths=[length, 4], seed=seed), seed)
    b = builder(t, max_history=8)
    row = pick % length
    own = b.request_key == b.request_key[row]
    later = (t.known_time >= b.request_time[row]) & (b.user_of_row == b.user_of_row[row])
    expected = bytes_of(without_rows(batch_of_request(b, row)))
    fewer = t.where(own | ~later)
    at = int(np.count_nonzero((own | ~later)[:row]))
    assert bytes_of(without_rows(batch_of_request(builder(fewer, max_history=8), at))) == expected


@examples(150, 40)
@given(seed=st.integers(0, 10_000), length=st.integers(2, 40), max_history=st.integers(2, 12))
def test_a_request_that_is_served_has_the_history_of_the_log(seed: int, length: int, max_history: int) -> None:
    t = known_later(timelines(lengths=[length], seed=seed), seed)
    b = builder(t, max_history=max_history)
    for key in np.unique(b.request_key):
        rows = np.flatnonzero(b.request_key == key)
        offline = b.batch(b.request(rows))
        asked = with_request(
            t,
            time=int(b.request_time[rows[0]]),
            items=t.item[rows].astype(np.int64),
            features={name: gather(column, rows, widen=False) for name, column in t.features.items()},
            statistics=t.statistics[rows],
        )
        live = builder(asked, max_history=max_history)
        served = live.batch(live.samples())
        assert bytes_of(served.history) == bytes_of(offline.history)
        for name in ("time", "prefix", "request", "gap"):
            np.testing.assert_array_equal(getattr(served.candidates, name), getattr(offline.candidates, name))


@examples(150, 40)
@given(seed=st.integers(0, 10_000), length=st.integers(2, 40), max_history=st.integers(2, 12))
def test_an_exposure_has_the_same_index_and_gap_as_history_as_it_had_as_a_candidate(
    seed: int, length: int, max_history: int
) -> None:
    t = known_later(timelines(lengths=[length, 7], seed=seed), seed)
    b = builder(t, max_history=max_history)
    batch = b.batch(b.samples())
    c, history = batch.candidates, batch.history.as_candidate
    there = c.in_history >= 0
    for name in ("request", "gap"):
        now, then = getattr(history, name)[c.in_history[there]], getattr(c, name)[there]
        np.testing.assert_array_equal(now, then)
    assert (c.request <= max_history).all()
    assert (history.request <= max_history).all()


def test_requests_of_exposures_with_times_of_their_own_are_counted_as_requests() -> None:
    t = timelines(lengths=[13], seed=0)
    time = np.array([0, 5, 9, 14, 100, 103, 108, 111, 400, 401, 405, 409, 1000])
    t = replace(t, time=time, request=np.repeat(np.arange(4, dtype=np.int32), [4, 4, 4, 1]))
    for max_history in (16, 4):
        b = builder(t, max_history=max_history)
        batch = b.batch(b.request(np.array([12])))
        kept = len(batch.history.time)
        assert batch.history.as_candidate.request.tolist() == [
            n - (12 - kept) // 4 for n in np.repeat([0, 1, 2], 4)[12 - kept :]
        ]
        # The window's first event knows the request before the window.
        assert batch.history.as_candidate.gap.tolist() == np.repeat([-1, 100, 300], 4)[12 - kept :].tolist()
        assert (batch.candidates.request.tolist(), batch.candidates.gap.tolist()) == ([kept // 4], [600])


def test_a_request_sees_exposures_in_the_order_in_which_they_became_known() -> None:
    t = replace(
        timelines(lengths=[4], seed=0),
        time=np.array([10, 20, 30, 50]),
        request=np.arange(4, dtype=np.int32),
        known_at=np.array([45, 25, 35, 50]),
        item=np.array([1, 2, 3, 4], np.int32),
    )
    t = in_order(t)
    b = builder(t, max_history=8)
    assert (t.item.tolist(), b.request_time.tolist()) == ([2, 3, 1, 4], [20, 30, 10, 50])
    assert b.visible_end.tolist() == [0, 1, 0, 3]
    assert b.gap.tolist() == [-1, 10, -1, 20]  # since the latest request that it knew of
    assert b.request_index.tolist() == [0, 1, 0, 3]


@examples(100, 30)
@given(seed=st.integers(0, 10_000), length=st.integers(2, 30), pick=st.integers(0, 10_000))
def test_no_event_at_or_after_a_request_reaches_it(seed: int, length: int, pick: int) -> None:
    t = timelines(lengths=[length, 4], seed=seed)
    b = builder(t, max_history=8)
    row = pick % length
    before = bytes_of(batch_of_request(b, row))
    random = np.random.default_rng(seed + 1)
    later = (t.time >= b.request_time[row]) & (b.user_of_row == b.user_of_row[row])
    changed = replace(
        t,
        tasks={
            "click": np.where(later, random.integers(-1, 2, len(later)), t.tasks["click"]).astype(np.int8),
            "dwell": np.where(later, 99.0, t.tasks["dwell"]).astype(np.float32),
        },
        feedback={"rating": np.where(later, 3, t.feedback["rating"]).astype(np.int32)},
        item=np.where(later & (b.request_key != b.request_key[row]), 30, t.item).astype(np.int32),
    )
    assert bytes_of(batch_of_request(builder(changed, max_history=8), row)) == before


@given(num_past=st.integers(0, 5000), max_history=st.integers(2, 300))
def test_the_window_keeps_the_newest_and_moves_by_half_of_itself(num_past: int, max_history: int) -> None:
    past = np.arange(num_past, num_past + 3)
    start = window_start(past, max_history)
    kept = past - start
    assert (kept <= max_history).all()
    assert (kept > max_history // 2 - 1).all() or num_past < max_history
    assert set(np.diff(start).tolist()) <= {0, max_history // 2}
    assert (start[past <= max_history] == 0).all()


@pytest.mark.parametrize("grouping", GROUPINGS)
def test_every_target_exposure_is_a_candidate_once_with_the_same_history_in_every_grouping(grouping: str) -> None:
    t = timelines(lengths=[40, 0, 7, 1], seed=3)
    b = builder(t, grouping=grouping, max_history=10, max_candidates=6)
    samples = b.samples()
    assert sorted(samples.candidates.tolist()) == list(range(t.num_exposures))
    batch = b.batch(samples)
    sample = np.repeat(np.arange(len(samples)), samples.num_candidates)
    past = b.visible_end[samples.candidates] - t.offsets[b.user_of_row[samples.candidates]]
    assert (samples.start[sample] == b.visible_end[samples.candidates] - past + window_start(past, 10)).all()
    assert (batch.candidates.prefix == past - window_start(past, 10)).all()
    assert (batch.candidates.prefix <= samples.num_history[sample]).all()


def test_a_request_that_lies_around_another_sees_only_what_was_before_its_own_beginning() -> None:
    t = timelines(lengths=[4], seed=0)
    t = replace(
        t,
        time=np.array([10, 20, 30, 40]),
        request=np.array([0, 1, 2, 1], dtype=np.int32),  # request 1 goes on after request 2
    )
    b = builder(t, max_history=8)
    assert b.visible_end.tolist() == [0, 1, 2, 1]
    assert b.request_time.tolist() == [10, 20, 30, 20]


def test_requests_of_equal_time_do_not_see_each_other() -> None:
    t = timelines(lengths=[4], seed=0)
    t = replace(t, time=np.array([10, 20, 20, 20]), request=np.array([0, 1, 1, 2], dtype=np.int32))
    assert builder(t).visible_end.tolist() == [0, 1, 1, 1]


def test_request_index_and_gap_of_requests_of_one_time_each() -> None:
    t = timelines(lengths=[5], seed=0)
    t = replace(t, time=np.array([10, 10, 25, 40, 90]), request=np.array([0, 0, 1, 2, 3], dtype=np.int32))
    batch = builder(t, grouping="user", max_history=8).batch(builder(t, grouping="user", max_history=8).samples())
    assert batch.history.as_candidate.request.tolist() == [0, 0, 1, 2]
    assert batch.history.as_candidate.gap.tolist() == [-1, -1, 15, 15]
    assert batch.candidates.request.tolist() == [0, 0, 1, 2, 3]
    assert batch.candidates.gap.tolist() == [-1, -1, 15, 15, 50]


def test_parts_are_cut_by_the_time_of_the_request() -> None:
    t = timelines(lengths=[30, 30], seed=1)
    b = builder(t)
    middle = int(np.median(b.request_time))
    early, late = b.samples(end=middle), b.samples(begin=middle)
    assert (b.request_time[early.candidates] < middle).all()
    assert (b.request_time[late.candidates] >= middle).all()
    assert len(early.candidates) + len(late.candidates) == t.num_exposures


def test_actions_have_one_index_per_type_and_unknown_is_zero() -> None:
    t = timelines(lengths=[4], seed=0)
    t = replace(
        t,
        tasks={
            "click": np.array([-1, 0, 1, 1], np.int8),
            "dwell": np.array([np.nan, 0.5, 2.0, 100.0], np.float32),
        },
    )
    b = builder(t)
    rows = np.arange(4)
    assert b.action_index("click", rows).tolist() == [0, 1, 2, 2]
    assert b.action_index("dwell", rows).tolist() == [0, 1, 2, 4]
    assert b.action_index("rating", rows).tolist() == t.feedback["rating"].tolist()


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_loader_stopped_anywhere_goes_on_as_if_it_had_not(shuffle: bool) -> None:
    b = builder(timelines(lengths=[20, 30, 10, 5, 40], seed=2), grouping="request", max_history=8)
    config = LoaderConfig(batch_tokens=60, shuffle=shuffle, seed=7)

    def epochs(loader: Loader, count: int) -> list[list[bytes]]:
        return [bytes_of(batch) for _ in range(count) for batch in loader]

    whole = epochs(Loader(b, b.samples(), config), 2)
    stopped = Loader(b, b.samples(), config)
    iterator = iter(stopped)
    first = [bytes_of(next(iterator)) for _ in range(3)]
    resumed = Loader(b, b.samples(), config)
    resumed.restore(stopped.state())
    assert first + epochs(resumed, 2) == whole


def test_batches_stay_within_their_budget_and_ranks_share_them() -> None:
    b = builder(timelines(lengths=[20, 30, 10, 5, 40] * 4, seed=2), grouping="request", max_history=8)
    samples = b.samples()
    loaders = [Loader(b, samples, LoaderConfig(batch_tokens=80), rank=r, num_ranks=2) for r in range(2)]
    one = Loader(b, samples, LoaderConfig(batch_tokens=80))
    cost = samples.num_history + samples.num_candidates
    for batch in one.plan():
        assert cost[batch].sum() <= 80
        shares = [loader._shard(batch) for loader in loaders]
        assert sorted(np.concatenate(shares).tolist()) == sorted(batch.tolist())
        assert abs(cost[shares[0]].sum() - cost[shares[1]].sum()) <= cost.max()


def test_a_shuffled_epoch_differs_from_the_next_and_time_order_is_kept_without_shuffle() -> None:
    b = builder(timelines(lengths=[30] * 6, seed=2), grouping="request", max_history=8)
    loader = Loader(b, b.samples(), LoaderConfig(batch_tokens=60))
    first = [batch.tolist() for batch in loader.plan()]
    loader.epoch = 1
    assert first != [batch.tolist() for batch in loader.plan()]
    ordered = Loader(b, b.samples(), LoaderConfig(batch_tokens=60, shuffle=False))
    times = np.concatenate([b.samples().time[batch] for batch in ordered.plan()])
    assert (np.diff(times) >= 0).all()


def test_batches_come_as_torch_tensors_with_each_item_once() -> None:
    b = builder(timelines(lengths=[20, 10], seed=2))
    batch = Loader(b, b.samples(), LoaderConfig()).build(take(b.samples(), np.arange(len(b.samples()))))
    assert isinstance(batch.items["item_id"], torch.Tensor)
    assert isinstance(batch.items["tags"], Jagged)
    assert len(batch.items["item_id"].unique()) == len(batch.items["item_id"])


@pytest.mark.parametrize("setting", [{"max_history": 1}, {"grouping": "weekly"}, {"max_candidates": 0}])
def test_impossible_settings_are_refused(setting: dict) -> None:
    with pytest.raises(ValueError, match=r"must be|choose"):
        SequenceConfig(**setting)
