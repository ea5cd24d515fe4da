from pathlib import Path

import pytest

from exposure_logs import Prepared
from genrank.errors import LogError
from genrank.preparation.prepare import prepare
from genrank.preparation.sources.public_data import published
from genrank.preparation.sources.taobao import END, FIRST, taobao

KINDS = ("pv", "fav", "cart", "buy")


def rows(count: int = 60) -> list[tuple[int, int, int, str, int]]:
    """User, item, category, behaviour, time; users and items begin with 10, categories are the item's last digit."""
    return [(10 + n % 3, 10 + n % 7, n % 7, KINDS[n % 4], FIRST + 60 * n) for n in range(count)]


def write(folder: Path, *more: tuple[int, int, int, str, int]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(",".join(map(str, row)) + "\n" for row in (*rows(), *more))
    (folder / "UserBehavior.csv").write_text(text)
    return folder


def prepared(path: Path) -> Prepared:
    out = path.parent / "out"
    return Prepared(out, prepare(taobao(path), out=out))


def test_every_row_is_an_event_whose_behaviour_is_feedback(tmp_path: Path) -> None:
    made = prepared(write(tmp_path / "t"))
    name = {index: value for value, index, _ in made.vocabulary("behaviour")}
    got = sorted((r["time"], r["user"], r["item"], name[r["feedback_behaviour"]]) for r in made.rows())
    assert got == [(time, str(user), str(item), kind) for user, item, _, kind, time in rows()]
    assert made.manifest.spec.tasks == ()
    assert made.manifest.counts.train.positives == {}
    assert (made.manifest.dropped, made.manifest.warnings) == ({}, ())


def test_an_items_category_is_that_of_its_first_row(tmp_path: Path) -> None:
    made = prepared(write(tmp_path / "t", (10, 10, 99, "pv", FIRST + 90)))
    name = {index: value for value, index, _ in made.vocabulary("category")} | {0: None}
    items = made.table("items.parquet").to_pylist()
    assert [(i["id"], name[i["category"]]) for i in items[1:]] == [(f"1{digit}", f"{digit}") for digit in range(7)]


def test_behaviours_of_one_second_stay_apart_the_stronger_ones_later(tmp_path: Path) -> None:
    second = FIRST + 7
    more = [(99, 10, 0, "buy", second), (99, 10, 0, "pv", second), (99, 11, 1, "pv", second), (99, 10, 0, "pv", second)]
    made = prepared(write(tmp_path / "t", *more))
    name = {index: value for value, index, _ in made.vocabulary("behaviour")}
    got = [(r["item"], name[r["feedback_behaviour"]], r["request"]) for r in made.rows() if r["user"] == "99"]
    assert got == [("10", "pv", 0), ("11", "pv", 0), ("10", "buy", 1)]
    assert made.manifest.dropped == {"duplicate": 1}


def test_rows_outside_of_the_data_sets_days_are_dropped_and_counted(tmp_path: Path) -> None:
    times = (FIRST, FIRST - 1, END - 1, END, 0, -1818828480, 2**33)
    made = prepared(write(tmp_path / "t", *((99, 10, 0, "pv", time) for time in times)))
    assert made.manifest.dropped == {
        "time before 1970": 1,
        "time in the future": 1,
        "time outside of the data set's days": 3,
    }
    assert [row["time"] for row in made.rows() if row["user"] == "99"] == [FIRST, END - 1]


def test_the_file_may_be_given_itself(tmp_path: Path) -> None:
    source = published("taobao", write(tmp_path / "t") / "UserBehavior.csv")
    assert source.description == {"kind": "taobao", "files": ["UserBehavior.csv"]}


def test_another_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r"UserBehavior\.csv"):
        published("taobao", tmp_path)
    with pytest.raises(LogError, match="no such file or folder"):
        published("taobao", tmp_path / "none.csv")


def test_lines_of_another_shape_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "t")
    (folder / "UserBehavior.csv").write_text("1,2,3,pv,soon\n")
    with pytest.raises(LogError, match=r"UserBehavior\.csv, line 1: expected a number in column 'time', found 'soon'"):
        prepared(folder)
    assert not (tmp_path / "out").exists()
