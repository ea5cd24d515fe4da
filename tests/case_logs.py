"""Small logs as users write them, each with one trap: 20 users, 10 days, requests of 4 items, labels by coin."""

import csv
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exposure_logs import Prepared
from genrank.cli import main
from genrank.data.manifest import DataWarning, Manifest

BEGIN, DAY = 1_700_003_458, 86_400
SCHEMA = """
name = "case"
[columns]
user = "uid"
item = "iid"
time = "ts"
[[tasks]]
name = "click"
kind = "binary"
column = "clk"
"""
Row = dict[str, Any]


def rows(change: Callable[[Row, np.random.Generator], Row] | None = None, *, seed: int = 0) -> list[Row]:
    """800 exposures as (uid, iid, ts, clk), in order of user and time; `change` is applied to each."""
    rng = np.random.default_rng(seed)
    made = []
    for user in range(20):
        for day in range(10):
            time = BEGIN + day * DAY + int(rng.integers(-1000, 1000))
            for item in rng.choice(40, 4, replace=False):
                row = {"uid": f"u{user}", "iid": f"i{item:02d}", "ts": time, "clk": int(rng.random() < 0.3)}
                made.append(row if change is None else change(row, rng))
    return made


def written(path: Path, lines: Iterable[Row], **dialect: Any) -> Path:
    """The rows as delimited text, UTF-8; `dialect`: of csv.writer."""
    lines = list(lines)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, **({"lineterminator": "\n"} | dialect))
        writer.writerow(lines[0])
        writer.writerows(row.values() for row in lines)
    return path


class Case:
    """A folder with a schema and logs, prepared by the command line."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]):
        self.folder, self.capsys = folder, capsys
        self.out = folder / "prepared"

    def prepare(self, logs: Path | Sequence[Path], schema: str = SCHEMA, *flags: str) -> int:
        (self.folder / "schema.toml").write_text(schema, encoding="utf-8")
        paths = [logs] if isinstance(logs, Path) else logs
        options = ["--schema", str(self.folder / "schema.toml"), "--out", str(self.out), "--threads", "1"]
        return main(["prepare", *map(str, paths), *options, *flags])

    def read(self, logs: Path | Sequence[Path], schema: str = SCHEMA, *flags: str) -> Prepared:
        """What was prepared; the log must be read."""
        code = self.prepare(logs, schema, *flags)
        assert code == 0, self.capsys.readouterr().err
        return Prepared(self.out, Manifest.load(self.out))

    def refusal(self, logs: Path | Sequence[Path], schema: str = SCHEMA, *flags: str) -> str:
        """The one line with which the log is refused."""
        self.capsys.readouterr()
        assert self.prepare(logs, schema, *flags) == 2
        assert not self.out.exists()
        (line,) = self.capsys.readouterr().err.strip().splitlines()
        assert "DuckDB" not in line
        assert "strict_mode" not in line
        assert "Possible fixes" not in line
        return line


def of_kind(manifest: Manifest, kind: str) -> list[str]:
    """Messages of the warnings of one kind."""
    assert all(isinstance(found, DataWarning) for found in manifest.warnings)
    return [found.message for found in manifest.warnings if found.kind == kind]


def last_json(capsys: pytest.CaptureFixture[str]) -> Any:
    """The JSON document on stdout."""
    return json.loads(capsys.readouterr().out)
