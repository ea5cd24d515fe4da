"""SIM's general search: what a candidate may look at of the life-long history."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from amounts import examples
from genrank.batch import PackedBatch, map_arrays
from genrank.data.past_search import SearchConfig
from genrank.data.sequence import SequenceBuilder, SequenceConfig, search_feature
from worlds import SPEC, builder, tables, timelines
from zoo import ranker

HARD, SOFT = SearchConfig(kind="hard", num_retrieved=3), SearchConfig(kind="soft", max_events=9)


@given(seed=st.integers(0, 999))
@examples(60, 20)
def test_hard_search_finds_the_latest_events_of_the_candidates_category_before_the_window(seed: int) -> None:
    t = timelines(lengths=[40, 0, 25, 3], seed=seed)
    b = builder(t, search=HARD, max_history=8)
    samples = b.samples()
    batch = b.batch(samples)
    topic = b.items.features["topic"]
    start = np.repeat(samples.start, samples.num_candidates)
    for c, row in enumerate(samples.candidates):
        first = t.offsets[b.user_of_row[row]]
        mine = topic[t.item[row]]
        expected = [r for r in range(first, start[c]) if topic[t.item[r]] == mine and mine > 0][-3:]
        found = slice(batch.long.offsets[c], batch.long.offsets[c + 1])
        assert batch.long.time[found].tolist() == t.time[expected].tolist()
        assert batch.items["item_id"][batch.long.item[found]].tolist() == t.item[expected].tolist()


def test_the_category_of_an_item_is_the_first_of_its_values_and_is_found_once() -> None:
    items, _ = tables(1)
    tags, topic = items.categories("tags"), items.categories("topic")
    starts, ends = (items.features["tags"].offsets[where].tolist() for where in (slice(-1), slice(1, None)))
    values = items.features["tags"].values
    assert tags.tolist() == [values[start] if end > start else 0 for start, end in zip(starts, ends, strict=True)]
    assert topic.tolist() == items.features["topic"].tolist()
    assert items.categories("tags") is tags
    assert items.categories("topic") is topic


def test_soft_search_is_given_the_latest_events_before_the_window() -> None:
    t = timelines(lengths=[40, 4], seed=1)
    b = builder(t, search=SOFT, max_history=8)
    samples = b.samples()
    batch = b.batch(samples)
    for s in range(len(samples)):
        rows = np.arange(t.offsets[samples.user[s]], samples.start[s])[-9:]
        found = slice(batch.long.offsets[s], batch.long.offsets[s + 1])
        assert batch.items["item_id"][batch.long.item[found]].tolist() == t.item[rows].tolist()


def last_request(num_events: int) -> PackedBatch:
    """One user's last request after so many events."""
    t = timelines(lengths=[num_events], seed=2)
    items, users = tables(1)
    search = SearchConfig(kind="hard", num_retrieved=16)
    b = SequenceBuilder(SequenceConfig(max_history=32), SPEC, timelines=t, items=items, users=users, search=search)
    return map_arrays(b.batch(b.request(np.flatnonzero(b.request_key == b.request_key[-1]))), torch.from_numpy)


def test_the_exact_search_costs_what_is_retrieved_whatever_the_histories_length() -> None:
    costs = []
    for num_events in (1_000, 10_000):
        batch = last_request(num_events)
        model = ranker("mlp-sim-hard", SPEC, max_history=32, search=SearchConfig(kind="hard", num_retrieved=16))
        items_IW = model.inputs.items(batch.items)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model.inputs.long_history(batch, items_IW)
        num_candidates = len(batch.candidates.item)
        tensors = [batch.long.item, batch.long.time, *batch.long.actions.values()]
        costs.append((counter.get_total_flops() / num_candidates, sum(t.nbytes for t in tensors) / num_candidates))
        assert len(batch.long.item) == 16 * num_candidates
        assert len(batch.items["item_id"]) <= 31
    assert costs[0] == costs[1]
    assert costs[0][0] > 0


def test_what_hard_search_goes_by_must_be_in_the_data() -> None:
    assert search_feature(HARD, SPEC) == "topic"
    assert search_feature(replace(HARD, by="tags"), SPEC) == "tags"
    with pytest.raises(ValueError, match=r"named 'genre'.*the data has topic, tags.*search.by"):
        search_feature(replace(HARD, by="genre"), SPEC)
    bare = replace(SPEC, features=SPEC.features[:1])
    with pytest.raises(ValueError, match=r"needs a categorical feature of the item.*has none"):
        search_feature(HARD, bare)
