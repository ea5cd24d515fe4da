"""Timelines in memory: one user's, and actions known at once."""

from dataclasses import replace

import numpy as np
import pytest

from genrank.batch import Jagged
from genrank.data.timelines import Timelines, gather, offsets_of
from worlds import timelines


def with_lists(t: Timelines, *, weighted: bool) -> Timelines:
    lengths = np.arange(t.num_exposures) % 3
    values = np.arange(lengths.sum(), dtype=np.int32)
    weights = values.astype(np.float32) / 2 if weighted else None
    return replace(t, features={**t.features, "tags": Jagged(values, offsets_of(lengths), weights)})


@pytest.mark.parametrize("weighted", [False, True])
def test_a_users_lists_are_those_of_its_rows(weighted: bool) -> None:
    t = with_lists(timelines(lengths=[4, 0, 7]), weighted=weighted)
    for user in range(3):
        own, rows = t.of_user(user), np.arange(*t.offsets[user : user + 2])
        found, expected = own.features["tags"], gather(t.features["tags"], rows, widen=False)
        assert found.offsets.tolist() == expected.offsets.tolist()
        assert found.values.tolist() == expected.values.tolist()
        assert (found.weights is None) == (not weighted)
        assert not weighted or found.weights.tolist() == expected.weights.tolist()
        assert own.item.tolist() == t.item[rows].tolist()


def test_actions_known_at_once_put_exposures_in_the_order_of_their_times() -> None:
    places = np.arange(14, dtype=np.int32)  # so that no two rows are equal
    plain = replace(timelines(lengths=[9, 5]), position=places, oracle={"click": places.astype(np.float32)})
    later = plain.time + np.arange(14)[::-1] * 1000
    order = np.lexsort((later, plain.user_of_row()))  # as a log in which the first actions are known last
    columns = {name: getattr(plain, name)[order] for name in ("time", "request", "position", "item", "statistics")}
    oracle, tasks = ({name: values[order] for name, values in of.items()} for of in (plain.oracle, plain.tasks))
    late = replace(plain, known_at=later[order], oracle=oracle, tasks=tasks, **columns)
    found, expected = late.at_once(), plain.at_once()
    assert late.item.tolist() != expected.item.tolist()
    assert found.known_at is None
    assert found.known_time.tolist() == found.time.tolist()
    for name in columns:
        assert getattr(found, name).tolist() == getattr(expected, name).tolist(), name
    assert found.oracle["click"].tolist() == expected.oracle["click"].tolist()
    assert found.tasks["click"].tolist() == expected.tasks["click"].tolist()
    assert (np.diff(found.time[:9]) >= 0).all()
    assert (np.diff(found.time[9:]) >= 0).all()
