"""What `simulate` leaves on disk, and what it leaves when something fails."""

import errno
import hashlib
import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from genrank.config import build
from genrank.errors import OutputError
from genrank.schema import LogSchema
from genrank.simulation import WorldConfig, simulate
from genrank.simulation.oracle import StreamingAuc

TINY = WorldConfig(num_users=40, num_days=2, num_items=200, new_items_per_day=20, num_topics=8, num_authors=20)


def hashes(folder):
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def read(folder):
    table = pq.read_table(folder / "exposures")
    return {name: table[name].to_numpy() for name in table.column_names}


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr("genrank.simulation.world._SHARD_EXPOSURES", 300)


def test_same_seed_same_bytes_and_another_seed_another_log(tmp_path):
    simulate(TINY, tmp_path / "a")
    simulate(TINY, tmp_path / "b")
    simulate(replace(TINY, seed=1), tmp_path / "c")
    first = hashes(tmp_path / "a")
    assert first == hashes(tmp_path / "b")
    changed = {name for name, digest in hashes(tmp_path / "c").items() if digest != first[name]}
    assert changed == set(first) - {"schema.toml"}


def test_shards_share_the_world_and_number_requests_through(tmp_path, small_shards):
    heard = []
    summary = simulate(TINY, tmp_path / "log", progress=heard.append)
    parts = sorted((tmp_path / "log" / "exposures").iterdir())
    assert len(parts) > 2
    assert parts[0].name == "part-0000.parquet"
    log = read(tmp_path / "log")
    assert np.array_equal(np.unique(log["request_id"]), np.arange(summary.num_requests))
    users = pq.read_table(tmp_path / "log" / "users.parquet")["user_id"].to_pylist()
    assert users == sorted(set(log["user_id"]))
    assert len(users) == TINY.num_users
    assert heard == sorted(heard)
    assert heard[-1] == 1


def test_schema_names_columns_and_files_that_are_there(world):
    folder, _ = world
    schema = LogSchema.from_toml(folder / "schema.toml")
    log = set(pq.read_schema(next((folder / "exposures").iterdir())).names)
    tables = {
        "exposure": log,
        "item": set(pq.read_schema(folder / schema.tables.item.path).names),
        "user": set(pq.read_schema(folder / schema.tables.user.path).names),
    }
    roles = {schema.columns.user, schema.columns.item, schema.columns.time, schema.columns.request}
    assert roles | {schema.columns.position} | {task.column for task in schema.tasks} <= log
    assert set(schema.oracle.values()) | {"dwell_censored"} <= log
    for feature in schema.features:
        if feature.file:
            assert (folder / feature.file).is_file()
        else:
            assert feature.column in tables[feature.owner]
    assert {feature.kind for feature in schema.features} == {"categorical", "multi", "numeric", "embedding"}
    assert schema.tables.item.key in tables["item"]
    assert schema.tables.user.key in tables["user"]


def test_side_tables_know_every_item_and_user_of_the_log(world, log):
    folder, summary = world
    items, users = pq.read_table(folder / "items.parquet"), pq.read_table(folder / "users.parquet")
    assert set(log["item_id"]) <= set(items["item_id"].to_pylist())
    assert set(log["user_id"]) <= set(users["user_id"].to_pylist())
    assert items.num_rows == summary.num_items == np.load(folder / "content.npy").shape[0]
    assert all(2 <= len(tags) <= 3 for tags in items["tags"].to_pylist())


def test_summary_agrees_with_the_log(world, log):
    folder, summary = world
    assert summary.num_exposures == log["click"].size
    assert summary.num_requests == np.unique(log["request_id"]).size
    for task, rate in summary.rates.items():
        assert rate == pytest.approx(log[task].mean())
    assert summary.exposures_per_second > 0
    stored = json.loads((folder / "world.json").read_text())
    assert stored["summary"]["oracle_auc"] == summary.oracle_auc
    assert build(WorldConfig, stored["config"], where="world.json").num_users == 500


@pytest.mark.parametrize("task", ["click", "like", "follow"])
def test_oracle_auc_equals_the_rank_statistic(world, log, task):
    p, y = log[f"p_{task}"].astype(np.float64), log[task] == 1
    distinct, rank, count = np.unique(p, return_inverse=True, return_counts=True)
    middle = (np.cumsum(count) - (count - 1) / 2)[rank]
    exact = (middle[y].sum() - y.sum() * (y.sum() + 1) / 2) / (y.sum() * (~y).sum())
    assert distinct.size > 1000
    assert world[1].oracle_auc[task] == pytest.approx(exact, abs=1e-4)


def test_streaming_auc_of_one_class_is_absent():
    auc = StreamingAuc()
    auc.add(np.array([0.1, 1.0], np.float32), np.array([True, True]))
    assert auc.value() is None
    auc.add(np.array([0.0], np.float32), np.array([False]))
    assert auc.value() == 1


def test_shuffled_labels_leave_nothing_to_learn(tmp_path):
    config = replace(TINY, num_users=300)
    simulate(config, tmp_path / "plain")
    summary = simulate(replace(config, shuffle_labels=True), tmp_path / "shuffled")
    plain, shuffled = read(tmp_path / "plain"), read(tmp_path / "shuffled")
    assert summary.oracle_auc == {"click": 0.5, "like": 0.5, "follow": 0.5}
    assert (plain["item_id"] == shuffled["item_id"]).all()
    assert plain["click"].sum() == shuffled["click"].sum()
    assert not shuffled["like"][shuffled["click"] == 0].any()
    assert np.isnan(shuffled["dwell_ms"][shuffled["click"] == 0]).all()
    old_truth = StreamingAuc()
    old_truth.add(plain["p_click"], shuffled["click"] == 1)
    assert old_truth.value() == pytest.approx(0.5, abs=0.03)


def test_an_empty_folder_is_taken(tmp_path):
    (tmp_path / "log").mkdir()
    simulate(TINY, tmp_path / "log")
    assert (tmp_path / "log" / "world.json").is_file()


def test_a_folder_with_something_in_it_is_refused_and_left_alone(tmp_path):
    (tmp_path / "precious.txt").write_text("keep me")
    with pytest.raises(OutputError, match="not empty"):
        simulate(TINY, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


@pytest.mark.parametrize("out", ["file", "file/log"])
def test_a_file_in_the_way_is_refused(tmp_path, out):
    (tmp_path / "file").write_text("keep me")
    with pytest.raises(OutputError):
        simulate(TINY, tmp_path / out)
    assert (tmp_path / "file").read_text() == "keep me"


def test_a_full_disk_gives_one_line_and_leaves_nothing(tmp_path, monkeypatch, small_shards):
    written = []
    real = pq.write_table

    def write(table, path, **options):
        if len(written) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(path)
        real(table, path, **options)

    monkeypatch.setattr("genrank.simulation.writer.pq.write_table", write)
    with pytest.raises(OutputError, match="No space left on device") as caught:
        simulate(TINY, tmp_path / "log")
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "log") in str(caught.value)
    assert len(written) == 2
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_run_leaves_nothing(tmp_path):
    def interrupt(share):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(TINY, tmp_path / "log", progress=interrupt)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_users", 0),
        ("num_days", 0),
        ("seed", -1),
        ("max_slots", 5),
        ("max_slots", 65),
        ("num_items", 10),
        ("requests_per_day", 0.0),
        ("requests_per_day", float("nan")),
        ("requests_per_session", 0.5),
        ("random_share", 1.5),
        ("interest_switch", -0.1),
        ("satiation", -1.0),
    ],
)
def test_values_out_of_range_are_named(name, value):
    with pytest.raises(ValueError, match=f"{name} is"):
        WorldConfig(**{name: value})


def test_the_smallest_world_runs(tmp_path):
    config = WorldConfig(
        num_users=1, num_days=1, num_items=2, new_items_per_day=0, num_topics=1, num_authors=1, num_interests=1,
        min_slots=1, max_slots=1, requests_per_day=0.01, requests_per_session=1.0,
    )  # fmt: skip
    summary = simulate(config, tmp_path / "log")
    assert summary.num_exposures == summary.num_requests == 1
