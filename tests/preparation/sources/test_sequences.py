import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from exposure_logs import Prepared
from genrank.data.manifest import PartCounts
from genrank.data.prepared import PreparedData
from genrank.data.sequence import SequenceConfig
from genrank.errors import LogError
from genrank.preparation.prepare import prepare
from genrank.preparation.sources import sequences as module
from genrank.preparation.sources.public_data import published
from genrank.preparation.sources.sequences import sequences

LINES = "u1 a b c d\n\nu2\tb  c\ta\r\nu3 c a\nu4 a\nu5 d d a d a"


def write(folder: Path, text: str | bytes = LINES, attributes: Any = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "Shop.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    if attributes is not None:
        text = attributes if isinstance(attributes, str) else json.dumps(attributes)
        (folder / "Shop_item2attributes.json").write_text(text)
    return folder


def prepared(path: Path, out: Path) -> Prepared:
    return Prepared(out, prepare(sequences(path), out=out))


def lines_by_part(made: Prepared) -> dict[str, dict[str, list[str]]]:
    """Part → user → items in order, as the manifest's split times cut them."""
    split, parts = made.manifest.split, {"train": {}, "valid": {}, "test": {}}
    for row in made.rows():
        early = row["time"] < split.valid_start
        part = "train" if early else "valid" if row["time"] < split.test_start else "test"
        parts[part].setdefault(row["user"], []).append(row["item"])
    return parts


def test_the_last_item_is_the_test_part_and_the_one_before_it_validation(tmp_path: Path) -> None:
    made = prepared(write(tmp_path / "shop"), tmp_path / "out")
    assert lines_by_part(made) == {
        "train": {"u1": ["a", "b"], "u2": ["b"], "u3": ["c", "a"], "u4": ["a"], "u5": ["d", "d", "a"]},
        "valid": {"u1": ["c"], "u2": ["c"], "u5": ["d"]},
        "test": {"u1": ["d"], "u2": ["a"], "u5": ["a"]},
    }
    assert made.manifest.counts.train == PartCounts(exposures=9, requests=9, positives={})
    assert made.manifest.spec.tasks == ()
    assert made.manifest.dropped == {}
    assert made.manifest.warnings == ()


def test_a_test_event_sees_all_that_came_before_it(tmp_path: Path) -> None:
    data = PreparedData.load(prepared(write(tmp_path / "shop"), tmp_path / "out").folder)
    samples = data.part(data.builder(SequenceConfig(max_history=16)), "test")
    users = data.users.ids.take(data.timelines.users[samples.user]).to_pylist()
    assert dict(zip(users, samples.num_history.tolist(), strict=True)) == {"u1": 3, "u2": 2, "u5": 4}


def test_times_say_nothing_but_the_order(tmp_path: Path) -> None:
    rows = prepared(write(tmp_path / "shop"), tmp_path / "out").rows()
    for user in ("u1", "u2", "u3", "u4", "u5"):
        times = [row["time"] for row in rows if row["user"] == user]
        assert {after - before for before, after in pairwise(times)} <= {module.STEP}
        assert times[-1] == module.LAST - (0 if len(times) > 2 else 2 * module.STEP)
        assert [row["request"] for row in rows if row["user"] == user] == list(range(len(times)))


def test_lines_read_in_small_blocks_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = prepared(write(tmp_path / "shop"), tmp_path / "whole").bytes()
    monkeypatch.setattr(module, "BLOCK", 1)
    assert prepared(tmp_path / "shop", tmp_path / "blocks").bytes() == whole
    (tmp_path / "shop" / "Shop.txt").write_text(LINES + "\nu6\n")
    with pytest.raises(LogError, match="line 7"):
        prepared(tmp_path / "shop", tmp_path / "short")
    (tmp_path / "shop" / "Shop.txt").write_text(LINES + "\nu1 a\n")
    with pytest.raises(LogError, match="lines 1 and 7"):
        prepared(tmp_path / "shop", tmp_path / "twice")


def test_attributes_are_a_feature_of_the_items(tmp_path: Path) -> None:
    folder = write(tmp_path / "shop", attributes={"a": [7, 3], "b": ["x"], "never": [7], "c": []})
    made = prepared(folder, tmp_path / "out")
    assert [(f.name, f.kind) for f in made.manifest.spec.of("item")] == [
        ("item_id", "categorical"),
        ("attributes", "multi"),
    ]
    index = {value: number for value, number, _ in made.vocabulary("attributes")}
    items = {row["id"]: row for row in made.table("items.parquet").to_pylist()}
    assert items["a"]["attributes"] == [index["7"], index["3"]]
    assert (items["c"]["attributes"], items["d"]["attributes"]) == ([], [])
    assert items["never"]["first_time"] is None
    assert made.manifest.source == {"kind": "sequences", "files": ["Shop.txt", "Shop_item2attributes.json"], "rows": 15}


def test_attributes_of_another_file_are_left_alone(tmp_path: Path) -> None:
    folder = write(tmp_path / "shop", attributes={"a": [1]})
    (folder / "Other.txt").write_text(LINES)
    assert sequences(folder / "Other.txt").schema.features == ()
    assert sequences(folder / "Shop.txt").schema.features
    (folder / "Shop.txt").unlink()
    assert sequences(folder).schema.features


def test_the_file_may_be_given_itself_and_a_readme_is_no_log(tmp_path: Path) -> None:
    folder = write(tmp_path / "shop")
    (folder / "README.txt").write_text("about")
    assert published("sequences", folder).schema == published("sequences", folder / "Shop.txt").schema


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["empty", "user item item"]),
        (" \n\n", ["empty"]),
        ("u1 a b c\n\nu2\nu3 a\n", ["line 3", "'u2' alone", "leave out the line"]),
        ("u1 a b c\nu2 a\nu3 b\nu2 c\n", ["user 'u2'", "lines 2 and 4", "join"]),
        (b"u1 a b c\nu2 a \xff\n", ["line 2", "UTF-8", "convert"]),
        ("u1 a b\nu2 c\n", ["no user has 3 items", "one user per line"]),
    ],
)
def test_lines_that_make_no_sense_are_refused(tmp_path: Path, text: str | bytes, words: list[str]) -> None:
    with pytest.raises(LogError) as caught:
        prepared(write(tmp_path / "shop", text), tmp_path / "out")
    message = str(caught.value)
    assert "\n" not in message
    assert [word for word in ["Shop.txt", *words] if word not in message] == []
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ('{"a": [1', ["damaged", "leave it out"]),
        ([1], ["object", "found list"]),
        ({"a": 1}, ["item 'a'", "list of ids", "found 1"]),
        ({"a": [[1]]}, ["item 'a'", "found [[1]]"]),
        ({"a": [None]}, ["item 'a'", "found [null]"]),
    ],
)
def test_damaged_attributes_are_refused(tmp_path: Path, attributes: Any, words: list[str]) -> None:
    with pytest.raises(LogError) as caught:
        prepared(write(tmp_path / "shop", attributes=attributes), tmp_path / "out")
    message = str(caught.value)
    assert "\n" not in message
    assert [word for word in ["Shop_item2attributes.json", *words] if word not in message] == []


def test_no_file_and_several_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="no such file or folder"):
        published("sequences", tmp_path / "none.txt")
    with pytest.raises(LogError, match=r"one \.txt of sequences, found none"):
        published("sequences", tmp_path)
    (write(tmp_path) / "Toys.txt").write_text(LINES)
    with pytest.raises(LogError, match=r"found Shop\.txt, Toys\.txt; give the path of the file"):
        published("sequences", tmp_path)


@pytest.mark.realdata
def test_amazon_beauty_is_split_leaving_one_out(real_data: Path, tmp_path: Path) -> None:
    made = prepared(real_data / "amazon-beauty", tmp_path / "out")
    counts = made.manifest.counts
    assert (counts.users, counts.items, counts.exposures) == (22_363, 12_101, 198_502)
    assert (counts.train.exposures, counts.valid.exposures, counts.test.exposures) == (153_776, 22_363, 22_363)
    assert made.manifest.spec.of("item")[1].size == 638
    assert lines_by_part(made)["test"]["2"] == ["11"]
