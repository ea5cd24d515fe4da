"""Scores of a file of candidates: those that ranking gives the same requests, row for row, whatever the batches."""

import csv
import itertools
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import genrank
from genrank.artifacts.bundle import load_bundle
from genrank.errors import BundleError, InputError, LogError, OutputError, RequestError
from genrank.inference import batch_scoring, candidate_files, collected
from genrank.inference.batch_scoring import BatchScorer, ranker_of_many, score_file, score_table
from genrank.inference.gen_ranker import GenRanker
from genrank.inference.pasts import PastInMemory, PastOnDisk

VALUE = {"click": 1.0, "like": 5.0}


@pytest.fixture(scope="module")
def ranker(run: Path) -> GenRanker:
    return ranker_of_many(run)


@pytest.fixture(scope="module")
def candidates(ranker: GenRanker) -> pa.Table:
    """300 rows: known and unknown users and items, several times, shuffled so that requests are spread."""
    rng = np.random.default_rng(0)
    end = ranker.bundle.manifest.split.last_time
    users = [*ranker.users.ids.to_pylist()[1:12], "nobody"]
    items = ranker.items.ids.to_pylist()[1:]
    rows = [
        {
            "request": f"r{number}",
            "user": user,
            "item": item,
            "time": end - 40_000 * day,
            "device": [None, "phone", "tablet", "a toaster"][int(rng.integers(4))],
            "item_age": float(rng.integers(1, 200)),
            "label": 1,
        }
        for number, (user, day) in enumerate(itertools.product(users, range(5)))
        for item in [*rng.choice(items, 4, replace=False), "no-such-item"]
    ]
    return pa.Table.from_pylist([rows[place] for place in rng.permutation(len(rows))])


def ranked(ranker: GenRanker, table: pa.Table, **options: Any) -> list[dict[str, float]]:
    """For every row, what `rank` answers for its candidate in the request of its user and time."""
    rows = table.to_pylist()
    answers: list[dict[str, float]] = [{} for _ in rows]
    places: dict[tuple[str, int], list[int]] = {}
    for place, row in enumerate(rows):
        places.setdefault((row["user"], row["time"]), []).append(place)
    for (user, time), found in places.items():
        context = {name: [rows[place][name] for place in found] for name in ("device", "item_age")}
        items = [rows[place]["item"] for place in found]
        answer = {p.item: p for p in ranker.rank(user, items, time=time, context=context, **options).places}
        for place in found:
            ranked_item = answer[rows[place]["item"]]
            scores = {f"score_{task}": score for task, score in ranked_item.scores.items()}
            answers[place] = {**scores, "value": ranked_item.value}
    return answers


def assert_as_ranked(scored: pa.Table, expected: list[dict[str, float]]) -> None:
    for name in expected[0]:
        assert scored.column(name).to_pylist() == pytest.approx([each[name] for each in expected], abs=1e-5, rel=1e-5)


@pytest.mark.parametrize("value", [None, VALUE])
def test_every_candidate_has_the_score_that_ranking_gives_it(ranker, candidates, value) -> None:
    scored = score_table(ranker, candidates, value=value)
    assert scored.select(["user", "item", "time", "request"]) == candidates.select(["user", "item", "time", "request"])
    expected = ranked(ranker, candidates, value=value)
    assert scored.column_names[4:] == [*(f"score_{task.name}" for task in ranker.spec.tasks), "value"]
    assert_as_ranked(scored, expected)
    assert len(set(scored.column("score_click").to_pylist())) > 150


@pytest.mark.parametrize(("rows", "requests"), [(3, 2), (40, 1), (10_000, 10_000)])
def test_the_size_of_batches_and_passes_changes_nothing(ranker, candidates, tmp_path, monkeypatch, rows, requests):
    expected = score_table(ranker, candidates)
    monkeypatch.setattr(batch_scoring, "MAX_ROWS", rows)
    monkeypatch.setattr(batch_scoring, "MAX_REQUESTS", requests)
    monkeypatch.setattr(candidate_files, "BATCH_ROWS", 7)
    pq.write_table(candidates, tmp_path / "in.parquet", row_group_size=50)
    found = score_file(ranker, tmp_path / "in.parquet", tmp_path / "out.parquet")
    scored = pq.read_table(tmp_path / "out.parquet")
    assert_as_ranked(scored, expected.drop_columns(["user", "item", "time", "request"]).to_pylist())
    assert scored.select(["user", "item"]) == expected.select(["user", "item"])
    assert (found.rows, found.unknown_users, found.unknown_items) == (300, 25, 60)
    assert (found.unused, found.missing_context) == (("label",), ())


@pytest.mark.parametrize("kind", ["csv", "tsv"])
def test_text_files_are_scored_as_parquet_is(ranker, candidates, tmp_path, kind) -> None:
    source, out = tmp_path / f"in.{kind}", tmp_path / f"out.{kind}"
    delimiter = {"csv": ",", "tsv": "\t"}[kind]
    with source.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, candidates.column_names, delimiter=delimiter)
        writer.writeheader()
        writer.writerows(candidates.to_pylist())
    score_file(ranker, source, out, value=VALUE)
    with out.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter=delimiter))
    expected = score_table(ranker, candidates, value=VALUE).to_pylist()
    assert [row["item"] for row in rows] == [row["item"] for row in expected]
    assert [float(row["value"]) for row in rows] == pytest.approx([row["value"] for row in expected], rel=1e-6)


def test_without_times_the_request_is_just_after_the_log(ranker, candidates) -> None:
    last = ranker.bundle.manifest.split.last_time + 1
    with_time = candidates.set_column(3, "time", pa.array([last] * len(candidates)))
    scored = score_table(ranker, candidates.drop_columns(["time"]))
    assert "time" not in scored.column_names
    assert scored.column("value") == score_table(ranker, with_time).column("value")


@pytest.mark.parametrize("zone", [None, "UTC", "Asia/Shanghai"])
def test_times_may_be_timestamps(ranker, candidates, zone) -> None:
    moments = [datetime.fromtimestamp(time, UTC) for time in candidates.column("time").to_pylist()]
    given = pa.array(moments, pa.timestamp("us", "UTC")).cast(pa.timestamp("us", zone))
    scored = score_table(ranker, candidates.set_column(3, "time", given))
    assert scored.column("value") == score_table(ranker, candidates).column("value")
    assert scored.schema.field("time").type == given.type


@pytest.mark.parametrize(
    "change",
    [
        lambda column: column.cast(pa.large_string()),
        lambda column: column.dictionary_encode(),
    ],
)
def test_ids_may_be_of_any_text_type(ranker, candidates, change: Callable[[Any], Any]) -> None:
    table = candidates.set_column(1, "user", change(candidates.column("user")))
    assert score_table(ranker, table).column("value") == score_table(ranker, candidates).column("value")


def test_the_same_in_python(run: Path, ranker, candidates) -> None:
    expected = score_table(ranker, candidates, value=VALUE)
    assert genrank.score(run, candidates, value=VALUE) == expected
    assert genrank.score(ranker, candidates.to_pydict(), value=VALUE).column("value") == expected.column("value")


def test_an_empty_table_has_no_scores(ranker, candidates, tmp_path) -> None:
    pq.write_table(candidates.slice(0, 0), tmp_path / "in.parquet")
    assert score_file(ranker, tmp_path / "in.parquet", tmp_path / "out.parquet").rows == 0
    assert pq.read_table(tmp_path / "out.parquet").column_names[-1] == "value"


def test_a_batch_without_rows_has_no_scores_and_no_request(ranker, candidates) -> None:
    scorer = BatchScorer(ranker, candidates.schema)
    (batch,) = candidates.slice(0, 4).combine_chunks().to_batches()
    assert scorer.score(batch.slice(0, 0)).num_rows == 0
    assert (scorer.summary.rows, scorer.summary.requests) == (0, 0)
    assert scorer.score(batch).num_rows == scorer.summary.rows == 4


def test_values_of_a_dictionary_that_no_row_has_need_be_no_ids(ranker, candidates) -> None:
    few = candidates.slice(0, 5)
    users = few.column("user").to_pylist()
    coded = pa.DictionaryArray.from_arrays(pa.array(range(1, 6)), pa.array(["", *users, "x" * 300]))
    table = few.set_column(1, "user", coded)
    assert score_table(ranker, table).column("value") == score_table(ranker, few).column("value")
    used = pa.DictionaryArray.from_arrays(pa.array([1, 2, 3, 4, 0]), coded.dictionary)
    with pytest.raises(RequestError, match="row 5: user: the id is empty"):
        score_table(ranker, few.set_column(1, "user", used))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.drop_columns(["item"]), "there is no column 'item' among"),
        (lambda t: t.select(["label"]), "no column 'user' and no column 'item'"),
        (lambda t: t.append_column("item", t.column("item")), "there are 2 columns 'item'"),
        (lambda t: _with(t, "user", 9, None), "row 10: user is missing"),
        (lambda t: _with(t, "item", 20, ""), "row 21: item: the id is empty"),
        (lambda t: _with(t, "item", 0, "x" * 300), "row 1: item: an id has at most 256"),
        (lambda t: _with(t, "time", 4, -1), "row 5: time is -1"),
        (lambda t: _with(t, "time", 4, 1_700_000_000_000), "milliseconds are divided by 1000"),
        (lambda t: _with(t, "time", 4, None), "row 5: time is None"),
        (lambda t: t.set_column(3, "time", t.column("time").cast(pa.string())), "found string"),
        (lambda t: t.set_column(5, "item_age", t.column("device")), "item_age must be a number"),
    ],
)
def test_tables_that_are_no_candidates_are_refused(ranker, candidates, change, said: str) -> None:
    with pytest.raises(RequestError, match=said) as refusal:
        score_table(ranker, change(candidates))
    assert "\n" not in str(refusal.value)


def _with(table: pa.Table, name: str, row: int, value: Any) -> pa.Table:
    values = table.column(name).to_pylist()
    values[row] = value
    return table.set_column(table.column_names.index(name), name, pa.array(values, table.schema.field(name).type))


def test_a_failure_leaves_the_old_file_and_nothing_beside_it(ranker, candidates, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(candidate_files, "BATCH_ROWS", 50)
    source, out = tmp_path / "in.parquet", tmp_path / "scores" / "out.parquet"
    pq.write_table(_with(candidates, "user", 200, None), source)
    out.parent.mkdir()
    out.write_bytes(b"precious")
    with pytest.raises(RequestError, match="row 201"):
        score_file(ranker, source, out)
    assert out.read_bytes() == b"precious"
    assert list(out.parent.iterdir()) == [out]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("missing.parquet", None, "no such file"),
        ("log.txt", b"user,item\n", "expected a name that ends with"),
        ("in.parquet", b"", "can't be read"),
        ("in.parquet", b"PAR1 and nothing", "can't be read"),
        ("in.csv", b"", "can't be read"),
        ("in.csv", b"user,item\nu1\n", "can't be read"),
        ("in.csv", b"user,item,time\nu1,i1,soon\n", "can't be read"),
        ("in.csv", b"user,item\nu1,\xff\xfe\n", "can't be read"),
    ],
)
def test_files_that_hold_no_table_are_refused(ranker, tmp_path, name, content, said: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(LogError, match=said) as refusal:
        score_file(ranker, tmp_path / name, tmp_path / "out.parquet")
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "out.parquet").exists()


def test_places_that_cannot_be_written_are_refused(ranker, candidates, tmp_path) -> None:
    pq.write_table(candidates.slice(0, 10), tmp_path / "in.parquet")
    (tmp_path / "folder.parquet").mkdir()
    for out in ("folder.parquet", "scores.xlsx", "in.parquet/out.parquet"):
        with pytest.raises((OutputError, InputError)):
            score_file(ranker, tmp_path / "in.parquet", tmp_path / out)


def test_a_retriever_scores_no_candidates(grank: Path) -> None:
    with pytest.raises(BundleError, match="is a retriever"):
        ranker_of_many(grank)


@pytest.mark.parametrize("few", [0, 10**6])
def test_histories_on_disk_give_the_same_scores(run, ranker, candidates, tmp_path, monkeypatch, few: int) -> None:
    """To the last bit: whether users are collected bucket by bucket or read one by one."""
    monkeypatch.setattr(collected, "FEW", few)
    monkeypatch.setattr(candidate_files, "BATCH_ROWS", 70)
    disk = GenRanker(load_bundle(run))
    assert isinstance(ranker.engine.histories.past, PastInMemory)
    assert isinstance(disk.engine.histories.past, PastOnDisk)
    pq.write_table(candidates, tmp_path / "in.parquet")
    for each, name in ((ranker, "memory"), (disk, "disk")):
        score_file(each, tmp_path / "in.parquet", tmp_path / f"{name}.parquet")
    assert pq.read_table(tmp_path / "disk.parquet").equals(pq.read_table(tmp_path / "memory.parquet"))
    assert score_table(disk, candidates).equals(score_table(ranker, candidates))
    assert {path.name for path in tmp_path.iterdir()} == {"in.parquet", "memory.parquet", "disk.parquet"}
