"""Ids with commas, quotes and spaces can be named on the command line."""

import json

import pytest

from amounts import sampled
from case_logs import SCHEMA, Case, last_json, rows, written
from genrank.cli import main

ODD = ("a,b", '"', " x", "x ", "x", "😀", "\u00e9", "e\u0301", "[1]", '["x"', "i,")
TINY = ["threads=1", "training.epochs=1", "model.width=16", "model.num_heads=2"]
CITY = '[[features]]\nname = "city"\nowner = "exposure"\nkind = "categorical"\ncolumn = "city"\n'
CITY += CITY.replace("city", "night")


def test_any_id_can_be_ranked_by_name(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    lines = rows(lambda row, _: row | {"city": ("a,b=c", "d")[row["clk"]], "night": bool(row["clk"])})
    for number, row in enumerate(lines):
        row |= {"iid": ODD[number % len(ODD)], "uid": ODD[number // 80]}
    case.read(written(case.folder / "log.csv", lines), SCHEMA + CITY)
    run = case.folder / "run"
    sets = [part for setting in TINY for part in ("--set", setting)]
    assert main(["train", str(case.out), "--recipe", "mlp", "--out", str(run), *sets]) == 0

    def ranked(user: str, candidates: str, *flags: str) -> dict:
        capsys.readouterr()
        assert main(["rank", str(run), "--user", user, "--candidates", candidates, "--json", *flags]) == 0
        return last_json(capsys)

    for user in sampled(ODD[:10], every=3):
        found = ranked(user, json.dumps(ODD))
        assert found["user_known"]
        assert {place["item"] for place in found["places"]} == set(ODD)
        assert all(place["known"] for place in found["places"])
    assert {place["item"] for place in ranked("x", "x, \u00e9,[1]")["places"]} == {"x", "\u00e9", "[1]"}
    found = ranked("x", '["x"]', "--context", '{"city": "a,b=c"}')
    assert found["missing_context"] == ["night"]
    night = ranked("x", '["x"]', "--context", '{"night": true}')["places"]
    assert night == ranked("x", '["x"]', "--context", "night=True")["places"]  # as the log's text has it
    assert night != ranked("x", '["x"]')["places"]
