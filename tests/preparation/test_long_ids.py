"""Ids longer than any request can name."""

from pathlib import Path

from genrank.cli import main
from genrank.data.manifest import Manifest
from genrank.ids import MAX_ID

LONG = "x" * (MAX_ID + 1)


def test_preparing_drops_and_counts_ids_that_no_request_can_name(tmp_path: Path) -> None:
    rows = [f"{user},i{number % 5},{1_700_000_000 + 100 * number},{number % 2}"
            for number in range(400) for user in ["u" if number % 3 else "v"]]  # fmt: skip
    rows += [f"{LONG},i1,1700000000,1", f"u,{LONG},1700000000,0", f"{'y' * MAX_ID},i1,1700000000,0"]
    (tmp_path / "log.csv").write_text("\n".join(["user,item,time,click", *rows]) + "\n")
    (tmp_path / "schema.toml").write_text(
        'name = "log"\n[columns]\nuser = "user"\nitem = "item"\ntime = "time"\n'
        '[[tasks]]\nname = "click"\nkind = "binary"\ncolumn = "click"\n'
    )
    out = tmp_path / "data"
    arguments = ["prepare", str(tmp_path / "log.csv"), "--schema", str(tmp_path / "schema.toml"), "--out", str(out)]
    assert main(arguments) == 0
    assert Manifest.load(out).dropped == {f"a user or item of over {MAX_ID} characters": 2}
