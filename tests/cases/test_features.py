"""Features that say the label or nothing: warned of by prepare, and again by every report."""

from typing import Any

import pytest

from case_logs import SCHEMA, Case, last_json, of_kind, rows, written
from genrank.cli import main


def features(**kinds: str) -> str:
    parts = [
        f'[[features]]\nname = "{n}"\nowner = "exposure"\nkind = "{k}"\ncolumn = "{n}"\n' for n, k in kinds.items()
    ]
    return "".join(part + 'separator = "|"\n' * ("multi" in part) for part in parts)


def told(case: Case, kind: str, change: Any, *, by: str = "exposure") -> list[str]:
    lines = rows(lambda row, rng: row | {"f": change(row, rng)})
    schema = SCHEMA + features(f=kind).replace("exposure", by)
    return of_kind(case.read(written(case.folder / "log.csv", lines), schema).manifest, "leakage")


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("categorical", lambda row, rng: ("long", "late")[rng.integers(2)] if row["clk"] else "none"),
        ("categorical", lambda row, rng: "x" if row["clk"] else ""),
        ("categorical", lambda row, rng: "" if row["clk"] else rng.integers(5)),
        ("categorical", lambda row, rng: rng.integers(5) if row["clk"] and rng.random() < 0.5 else ""),
        ("numeric", lambda row, rng: rng.random() + 10 * row["clk"]),
        ("numeric", lambda row, rng: rng.random() - 10 * row["clk"]),
        ("numeric", lambda row, rng: rng.random() * row["clk"]),
        ("multi", lambda row, rng: "a|b" if row["clk"] else "c"),
    ],
)
def test_a_feature_that_is_the_label_is_found(case: Case, kind: str, change: Any) -> None:
    (message,) = told(case, kind, change)
    assert "feature 'f'" in message
    assert "task 'click'" in message


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("categorical", lambda row, rng: f"{row['uid']}-{row['ts']}"),
        ("categorical", lambda row, rng: rng.integers(2**40)),
        ("categorical", lambda row, rng: rng.integers(3)),
        ("categorical", lambda row, rng: row["clk"] if rng.random() < 0.8 else 1 - row["clk"]),
        ("categorical", lambda row, rng: "x" if rng.random() < 0.003 else ""),
        ("numeric", lambda row, rng: rng.normal() + 2 * row["clk"]),
        ("numeric", lambda row, rng: row["ts"]),
        ("multi", lambda row, rng: "|".join(str(tag) for tag in rng.integers(9, size=3))),
    ],
)
def test_a_feature_that_only_helps_is_not_suspected(case: Case, kind: str, change: Any) -> None:
    assert told(case, kind, change) == []


@pytest.mark.parametrize("owner", ["item", "user"])
def test_rates_of_items_and_users_are_not_suspected(case: Case, owner: str) -> None:
    key = {"item": "iid", "user": "uid"}[owner]
    assert told(case, "numeric", lambda row, _: int(row[key][1:]), by=owner) == []


def test_constants_and_empty_columns_are_said(case: Case) -> None:
    lines = rows(lambda row, rng: row | {"one": "1", "none": "", "cat": "x", "free": rng.integers(9), "share": ""})
    kinds = {"one": "numeric", "none": "numeric", "cat": "categorical", "free": "numeric"}
    feedback = '[[feedback]]\nname = "share"\ncolumn = "share"\n'
    made = case.read(written(case.folder / "log.csv", lines), SCHEMA + features(**kinds) + feedback)
    assert of_kind(made.manifest, "values") == [
        "feature 'one' has one value only in the training part, so it has no information",
        "feature 'none' has no value in the training part, so it has no information",
        "feature 'cat' has one value only in the training part, so it has no information",
        "feedback 'share' has no value in the training part, so it has no information",
    ]


TINY = ["threads=1", "training.epochs=1", "model.width=16", "model.num_heads=2", "evaluation.num_bootstrap=20"]


def test_every_report_repeats_a_leak_and_says_of_nothing_that_it_beats(
    case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = rows(lambda row, _: row | {"bucket": ("none", "long")[row["clk"]], "const": 1})
    schema = SCHEMA + features(bucket="categorical", const="numeric")
    case.read(written(case.folder / "log.csv", lines), schema)
    run = case.folder / "run"
    sets = [part for setting in TINY for part in ("--set", setting)]
    assert main(["train", str(case.out), "--recipe", "mlp", "--out", str(run), *sets]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(run), "--json"]) == 0
    judged = last_json(capsys)
    assert {found["kind"] for found in judged["warnings"]} == {"leakage", "values"}
    assert main(["evaluate", str(run)]) == 0
    shown, page = " ".join(capsys.readouterr().out.split()), (run / "report.html").read_text(encoding="utf-8")
    for text in (shown, page, " ".join(judged["verdicts"])):
        assert "beats" not in text
        assert "Not comparable: the data has a warning of leakage." in text
    for text in (shown, page):
        assert "alone it separates task" in text
        assert "one value only in the training part" in text
