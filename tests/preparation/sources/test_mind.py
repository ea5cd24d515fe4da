from pathlib import Path

import pytest

from exposure_logs import Prepared
from genrank.errors import LogError
from genrank.preparation.prepare import prepare
from genrank.preparation.sources.mind import mind

LATE = "11/11/2019 1:00:00 PM"  # 13:00 UTC, 1573477200
NOON = 1573477200


def behaviors(*, first: str = "N1-1 N2-0 N3-0") -> str:
    lines = [
        f"1\tU1\t{LATE}\tN7 N8 N6\t{first}",
        "2\tU1\t11/11/2019 1:30:05 PM\tN7 N8 N6 N1\tN4-0 N1-1",
        "3\tU2\t11/12/2019 12:00:00 AM\t\tN2-1 N4-0",
        *(f"{n}\tU{n % 4}\t11/13/2019 {n % 12 + 1}:00:00 AM\tN9\tN1-{n % 2} N2-{1 - n % 2}" for n in range(4, 40)),
    ]
    return "".join(line + "\n" for line in lines)


def write(folder: Path, *, news: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "behaviors.tsv").write_text(behaviors())
    if news:
        (folder / "news.tsv").write_text('N1\tsports\tgolf\tA "title\nN77\tnews\tworld\tB\n')
    return folder


def prepared(folder: Path) -> Prepared:
    out = folder.parent / "out"
    return Prepared(out, prepare(mind(folder), out=out))


def test_impressions_become_requests_with_positions_and_clicks(tmp_path: Path) -> None:
    rows = [row for row in prepared(write(tmp_path / "mind")).rows() if row["user"] == "U1" and row["target"]]
    shown = [(r["item"], r["position"], r["task_click"], r["time"] - NOON, r["request"]) for r in rows[:5]]
    assert shown == [
        ("N1", 0, 1, 0, 3),
        ("N2", 1, 0, 0, 3),
        ("N3", 2, 0, 0, 3),
        ("N4", 0, 0, 1805, 4),
        ("N1", 1, 1, 1805, 4),
    ]


def test_the_earliest_history_becomes_clicks_before_the_first_impression(tmp_path: Path) -> None:
    rows = [row for row in prepared(write(tmp_path / "mind")).rows() if row["user"] == "U1" and not row["target"]]
    got = [(r["item"], r["position"], r["task_click"], r["time"] - NOON, r["request"]) for r in rows]
    assert got == [("N7", -1, 1, -3602, 0), ("N8", -1, 1, -3601, 1), ("N6", -1, 1, -3600, 2)]


def test_an_empty_history_adds_nothing(tmp_path: Path) -> None:
    rows = [row for row in prepared(write(tmp_path / "mind")).rows() if row["user"] == "U2"]
    assert rows[0]["target"]


def test_news_may_be_missing_for_most_items_or_altogether(tmp_path: Path) -> None:
    made = prepared(write(tmp_path / "a" / "mind"))
    items = {row["id"]: row for row in made.table("items.parquet").to_pylist()}
    assert (items["N1"]["category"], items["N2"]["category"]) == (1, 0)
    assert items["N77"]["first_time"] is None
    assert made.vocabulary("subcategory") == [("golf", 1, 1)]
    spec = prepared(write(tmp_path / "b" / "mind", news=False)).manifest.spec
    assert [feature.name for feature in spec.of("item")] == ["item_id"]


def test_train_and_dev_are_one_log_whose_impressions_stay_apart(tmp_path: Path) -> None:
    write(tmp_path / "mind" / "train")
    (write(tmp_path / "mind" / "dev") / "behaviors.tsv").write_text(f"1\tU1\t{LATE}\tN7\tN5-0\n")
    rows = [row for row in prepared(tmp_path / "mind").rows() if row["user"] == "U1" and row["time"] == NOON]
    assert {row["item"]: row["request"] - rows[0]["request"] for row in rows} == {"N5": 0, "N1": 1, "N2": 1, "N3": 1}


def test_impressions_without_labels_are_unknown(tmp_path: Path) -> None:
    folder = write(tmp_path / "mind")
    (folder / "behaviors.tsv").write_text(behaviors(first="N1 N2 N3"))
    rows = [row for row in prepared(folder).rows() if row["time"] == NOON]
    assert [(row["item"], row["task_click"]) for row in rows] == [("N1", -1), ("N2", -1), ("N3", -1)]


def test_another_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r"behaviors\.tsv"):
        mind(tmp_path)


@pytest.mark.realdata
def test_the_sample_of_mind_is_read_whole(real_data: Path, tmp_path: Path) -> None:
    counts = prepare(mind(real_data / "mind-small-sample"), out=tmp_path / "out").counts
    parts = (counts.train, counts.valid, counts.test)
    assert sum(part.requests for part in parts) == 5000
    assert sum(part.exposures for part in parts) == 189_359
    assert sum(part.positives["click"] for part in parts) == 7542
    assert counts.users == 4637
