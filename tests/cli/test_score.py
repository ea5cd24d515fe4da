"""`genrank score`: what it prints, and what it refuses in one line."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from genrank.cli import main

CANDIDATES = "user,item,label\nnobody,no-such-item,1\n"


def test_it_says_what_was_scored_as_unknown_and_what_was_not_used(run: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "in.csv").write_text(CANDIDATES)
    out = tmp_path / "out.parquet"
    capsys.readouterr()
    assert main(["score", str(run), str(tmp_path / "in.csv"), "--out", str(out)]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "1 candidates of 1 requests" in captured.err
    assert "the user of 1 rows, the item of 1" in captured.err
    assert "unknown to the model: device, item_age" in captured.err
    assert "not used: label" in captured.err
    assert pq.read_table(out).column_names[:3] == ["user", "item", "score_click"]


def test_json_is_one_document(run: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "in.csv").write_text(CANDIDATES)
    capsys.readouterr()
    assert main(["score", str(run), str(tmp_path / "in.csv"), "--out", str(tmp_path / "out.csv"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["rows"], found["unused"], found["missing_context"]) == (1, ["label"], ["device", "item_age"])


@pytest.mark.parametrize(
    ("content", "flags", "said"),
    [
        ("uid,item\nu,i\n", [], "there is no column 'user'"),
        ("user,items\nu,i\n", [], "there is no column 'item'"),
        (CANDIDATES, ["--value", "clik=1"], "did you mean 'click'?"),
        (CANDIDATES, ["--value", "click=much"], "must be a number"),
    ],
)
def test_bad_input_is_refused_in_one_line(run: Path, tmp_path: Path, capsys, content, flags, said) -> None:
    (tmp_path / "in.csv").write_text(content)
    out = tmp_path / "out.parquet"
    capsys.readouterr()
    assert main(["score", str(run), str(tmp_path / "in.csv"), "--out", str(out), *flags]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.strip().splitlines()
    assert said in line
    assert not out.exists()
