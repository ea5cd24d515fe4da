"""Positives for retrieval: the only events, or the only targets among all events."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from exposure_logs import log, prepare_log
from genrank.data.positives import positives, require_positives
from genrank.errors import DataError
from worlds import timelines


def test_positives_are_the_only_events_and_users_without_any_stay() -> None:
    t = timelines(lengths=[20, 3, 0, 9])
    found, clicked = positives(t, "click"), t.tasks["click"] == 1
    assert found.users.tolist() == t.users.tolist()
    assert found.item.tolist() == t.item[clicked].tolist()
    assert np.diff(found.offsets).tolist() == [int(clicked[slice(*t.offsets[n : n + 2])].sum()) for n in range(4)]


def test_positives_are_the_only_targets_where_all_events_stay() -> None:
    t = timelines(lengths=[20, 3])
    t = replace(t, target=np.arange(23) % 2 == 0)
    found = positives(t, "click", events="all")
    assert found.item.tolist() == t.item.tolist()
    assert found.target.tolist() == ((t.tasks["click"] == 1) & t.target).tolist()


def test_without_a_task_every_event_is_a_positive() -> None:
    t = timelines(lengths=[5])
    assert positives(t, "") is t


def test_a_part_without_a_positive_has_nothing_to_retrieve(tmp_path: Path) -> None:
    prepared = prepare_log(tmp_path, log())
    manifest = prepared.manifest
    require_positives(prepared.folder, manifest, "click", "train")
    require_positives(prepared.folder, manifest, "", "train")
    counts = replace(manifest.counts, test=replace(manifest.counts.test, positives={"click": 0}))
    with pytest.raises(DataError, match=r"the part 'test' has no exposure with click=1, .* or choose other days"):
        require_positives(prepared.folder, replace(manifest, counts=counts), "click", "test")
