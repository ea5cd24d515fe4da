"""Requests and what they see are indexed some users at a time."""

from pathlib import Path

import numpy as np
import pytest

from exposure_logs import START, log, prepare_log
from genrank.data import request_index
from genrank.data.prepared import PreparedData
from genrank.data.sequence import SequenceConfig
from genrank.schema import Columns


@pytest.mark.parametrize("grouping", ["user", "request", "1h"])
def test_samples_do_not_depend_on_how_many_users_are_indexed_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, grouping: str
) -> None:
    random = np.random.default_rng(0)
    times = START + np.sort(random.integers(3 * 86_400, size=500))
    rows = log(
        500,
        user=[f"u{user}" for user in random.integers(9, size=500)],
        time=times,
        known=times + random.integers(9_000, size=500),  # so that rows of a request aren't neighbours
    )
    columns = Columns(user="user", item="item", time="time", known_at="known")
    data = PreparedData.load(prepare_log(tmp_path, rows, columns=columns).folder)
    config = SequenceConfig(max_history=16, grouping=grouping)
    found = []
    for at_once in (1, 100, 10_000):
        monkeypatch.setattr(request_index, "ROWS_AT_ONCE", at_once)
        builder = data.builder(config)
        index = request_index.RequestIndex.of(data.timelines)
        found.append([vars(builder.samples()), vars(index)])
    assert len(list(request_index.pieces_of_users(data.timelines.offsets))) == 1
    assert not np.array_equal(index.request_key, np.sort(index.request_key))
    for one, other in ((found[0], found[2]), (found[1], found[2])):
        for some, same in zip(one, other, strict=True):
            for name, values in some.items():
                np.testing.assert_array_equal(values, same[name], err_msg=name)
