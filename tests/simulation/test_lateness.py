"""Likes that come hours later, and pages that are asked for before the page before them was looked at."""

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from genrank.cli import main
from genrank.data.manifest import Manifest
from genrank.data.prepared import PreparedData
from genrank.schema import LogSchema
from genrank.simulation import WorldConfig, simulate
from genrank.simulation.interests import Interests
from genrank.simulation.lateness import NEVER, Pending, delays

SMALL = WorldConfig(num_users=500, num_days=7, requests_per_day=3.0, num_items=800, new_items_per_day=60, seed=3)
LATE = replace(SMALL, late_share=0.4, prefetched_share=0.5)
TIMES = {"click_time", "like_time", "follow_time", "known_at"}


def read_log(folder: Path) -> dict[str, Any]:
    """The exposures as NumPy columns."""
    table = pq.read_table(folder / "exposures")
    return {name: table[name].to_numpy() for name in table.column_names}


@pytest.fixture(scope="module")
def late_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("late") / "log"
    simulate(LATE, out)
    return out


@pytest.fixture(scope="module")
def late(late_folder: Path) -> dict[str, Any]:
    return read_log(late_folder)


def next_request(log: dict[str, Any]) -> np.ndarray:
    """When the user of every exposure asked again; infinite where that didn't happen."""
    _, first, request = np.unique(log["request_id"], return_index=True, return_inverse=True)
    user, time = log["user_id"][first], log["timestamp"][first]
    order = np.lexsort((time, user))
    same = user[order][1:] == user[order][:-1]
    following = np.full(first.size, np.inf)
    following[order[:-1][same]] = time[order[1:][same]]
    return following[request]


def test_without_the_options_the_feed_is_what_it_was_before_there_were_any(tmp_path: Path) -> None:
    simulate(WorldConfig(num_users=40, num_days=3, seed=5), tmp_path / "log")
    table = pq.read_table(tmp_path / "log" / "exposures")
    assert not TIMES & set(table.column_names)
    digest = hashlib.sha256()
    for name in sorted(table.column_names):
        values = table[name].to_numpy()
        if values.dtype.kind == "f":
            values = np.round(values, 6)  # other processors round otherwise
        content = (
            "\n".join(map(str, values)) if values.dtype == object else values.astype(values.dtype.newbyteorder("<"))
        )
        digest.update(name.encode() + (content.encode() if isinstance(content, str) else content.tobytes()))
    assert digest.hexdigest() == "a209ecc84272750869c1e050728da09e1d3b008db0919ef9fe93d66924c297d3"
    assert "known_at" not in (tmp_path / "log" / "schema.toml").read_text()


def test_actions_have_times_where_there_are_actions_and_stays_end_before_all_is_known(late: dict[str, Any]) -> None:
    for task in ("click", "like", "follow"):
        assert (np.isnan(late[f"{task}_time"]) == (late[task] == 0)).all()
    assert (np.nan_to_num(late["click_time"], nan=np.inf) > late["timestamp"]).all()
    acted = np.fmax(np.fmax(late["click_time"], late["like_time"]), late["follow_time"])
    assert (late["known_at"] >= np.nan_to_num(acted)).all()
    clicked = late["click"] == 1
    stay = late["dwell_ms"][clicked] / 1000
    assert (late["known_at"][clicked] >= late["click_time"][clicked] + np.floor(stay)).all()


def test_the_share_of_late_likes_and_follows_is_that_asked_for_and_they_come_within_hours(late: dict[str, Any]) -> None:
    for task in ("like", "follow"):
        acted = late[task] == 1
        clicked, stay = late["click_time"][acted], np.nan_to_num(late["dwell_ms"][acted]) / 1000
        wait = late[f"{task}_time"][acted] - clicked - np.ceil(stay)
        is_late = wait > 0
        assert is_late.mean() == pytest.approx(LATE.late_share, abs=4 * (0.24 / acted.sum()) ** 0.5)
        minutes = wait[is_late] / 60
        assert 20 < np.median(minutes) < 45
        assert ((minutes > 3) & (minutes < 300)).mean() > 0.9


def test_many_users_ask_again_before_their_actions_are_known(late: dict[str, Any]) -> None:
    following = next_request(late)
    again = np.isfinite(following)
    liked = (late["like"] == 1) & again
    assert 0.3 < (late["like_time"][liked] > following[liked]).mean() < 0.9
    _, request = np.unique(late["request_id"], return_inverse=True)
    first_known = np.full(request.max() + 1, np.inf)
    np.minimum.at(first_known, request, late["known_at"])
    prefetched = following < first_known[request]  # nothing of the page is known as the next one is asked for
    assert 0.2 < prefetched[again].mean() < 0.4  # of a half, those six of ten pages that are no session's first


def test_what_comes_late_is_pending_until_its_time() -> None:
    pending = Pending()
    late = np.array([[True, False], [True, True], [True, False]])
    pending.add(late, what=np.array([[1, 2], [3, 4], [5, 6]]), time=np.array([[10, 0], [30, 20], [10, 0]]))
    assert [each.tolist() for each in pending.due(np.array([10, 25, 11]))] == [[2, 1], [5, 4]]
    assert [each.tolist() for each in pending.due(np.array([11, 30]))] == [[0], [1]]
    assert [each.tolist() for each in pending.due(np.array([99, 31]))] == [[1], [3]]
    assert pending.user.size == 0


def test_a_page_is_looked_at_slot_by_slot_and_passed_over_where_nothing_is_done() -> None:
    yes, no = True, False
    found = delays(
        seen=np.array([[yes, yes, yes, no]]),
        click=np.array([[no, yes, yes, no]]),
        like=np.array([[no, yes, no, no]]),
        follow=np.zeros((1, 4), bool),
        dwell=np.array([[0, 9.5, 3, 0]]),
        late_share=0.0,
        rng=np.random.default_rng(0),
    )
    assert found.click.tolist() == [[NEVER, 4, 16, NEVER]]
    assert found.like.tolist() == [[NEVER, 14, NEVER, NEVER]]
    assert found.known[:, :3].tolist() == [[2, 14, 19]]
    assert not found.late_like.any()


def test_a_like_to_come_leaves_the_world_as_it_is_until_it_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Where every like and follow comes after the log's end, users click as if there were none.
    monkeypatch.setattr("genrank.simulation.lateness._MEDIAN", 10**9)
    heard: list[bool] = []
    learn = Interests.learn

    def listening(interests: Interests, items: np.ndarray, **given: Any) -> None:
        heard.append(bool(given["like"].any()))
        learn(interests, items, **given)

    monkeypatch.setattr(Interests, "learn", listening)
    monkeypatch.setattr(Interests, "liked_later", lambda *_: pytest.fail("no like has come yet"))
    simulate(replace(SMALL, num_users=100, late_share=1.0), tmp_path / "log")
    assert read_log(tmp_path / "log")["like"].any()
    assert heard
    assert not any(heard)


def test_shuffled_labels_keep_their_times(tmp_path: Path) -> None:
    simulate(replace(LATE, num_users=60, shuffle_labels=True), tmp_path / "log")
    shuffled = read_log(tmp_path / "log")
    assert (np.isnan(shuffled["like_time"]) == (shuffled["like"] == 0)).all()


def test_prepare_reads_the_times_that_the_schema_names(late_folder: Path, tmp_path: Path) -> None:
    schema = LogSchema.from_toml(late_folder / "schema.toml")
    assert schema.columns.known_at == "known_at"
    assert [task.time for task in schema.tasks] == ["click_time", "like_time", "follow_time", None]
    arguments = ["prepare", str(late_folder / "exposures"), "--schema", str(late_folder / "schema.toml")]
    assert main([*arguments, "--out", str(tmp_path / "data")]) == 0
    manifest = Manifest.load(tmp_path / "data")
    log = read_log(late_folder)
    assert manifest.late_actions == int((log["known_at"] >= next_request(log)).sum())


def test_known_times_that_are_ignored_are_those_of_a_log_that_has_none(late_folder: Path, tmp_path: Path) -> None:
    lines = (late_folder / "schema.toml").read_text().splitlines()
    timeless = "\n".join(line for line in lines if not line.startswith(("known_at", "time = ")) or "timestamp" in line)
    for name in ("items.parquet", "users.parquet", "content.npy"):
        shutil.copy(late_folder / name, tmp_path / name)
    (tmp_path / "timeless.toml").write_text(timeless)
    loaded = []
    for name, schema in (("known", late_folder / "schema.toml"), ("timeless", tmp_path / "timeless.toml")):
        out = str(tmp_path / name)
        assert main(["prepare", str(late_folder / "exposures"), "--schema", str(schema), "--out", out]) == 0
        loaded.append(PreparedData.load(tmp_path / name))
    known, timeless = loaded
    assert known.timelines.known_at is not None
    assert timeless.timelines.known_at is None
    ignored = known.at_once().timelines
    assert ignored.known_at is None
    for name in ("users", "offsets", "time", "request", "position", "item", "target"):
        assert np.array_equal(getattr(ignored, name), getattr(timeless.timelines, name)), name
    for group in ("tasks", "censored", "features", "oracle"):
        for name, column in getattr(ignored, group).items():
            assert np.array_equal(column, getattr(timeless.timelines, group)[name], equal_nan=group == "tasks"), name
    assert known.at_once(False) is known
