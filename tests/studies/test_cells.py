"""What is kept of a study, and when it is trusted."""

import json
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from amounts import mostly_slow
from forked_commands import ForkedCommand
from genrank.config import override
from genrank.recipes import recipe
from genrank.studies.cells import Cell, CellResult, read_cell, write_cell
from genrank.studies.code import CELL as CELL_CODE
from genrank.studies.code import code_digest, modules, significant
from miniatures import TINY, study

CELL = Cell(data="d", seed=1, config=recipe("genrank-small"))
ONE = ("--seeds", "1", "--grid", "none", "--only", "gradient-boosted trees;item rate")
Mend = Callable[[dict[str, Any]], object]


def test_a_cell_reads_back(tmp_path: Path) -> None:
    write_cell(tmp_path, CELL, CellResult(figures={"test": {"all": {"auc": 0.7}}}))
    assert read_cell(tmp_path, CELL) == CellResult(figures={"test": {"all": {"auc": 0.7}}})


@pytest.mark.parametrize(
    "mend",
    [
        lambda content: content["figures"].update(auc=0.9),
        lambda content: content["question"].update(seed=2),
        lambda content: content.pop("digest"),
        lambda content: content.update(error="none"),
    ],
)
def test_a_cell_edited_by_hand_is_not_trusted(mend: Mend, tmp_path: Path) -> None:
    write_cell(tmp_path, CELL, CellResult(figures={"auc": 0.7}))
    content = json.loads((tmp_path / CELL.file_name).read_text())
    mend(content)
    (tmp_path / CELL.file_name).write_text(json.dumps(content))
    assert read_cell(tmp_path, CELL) is None


@pytest.mark.parametrize("text", ["", "[]", "null", '{"question": {}', '{"digest": "x"}'])
def test_a_damaged_cell_is_not_trusted(text: str, tmp_path: Path) -> None:
    (tmp_path / CELL.file_name).write_text(text)
    assert read_cell(tmp_path, CELL) is None


def test_a_cell_of_another_question_is_not_trusted(tmp_path: Path) -> None:
    write_cell(tmp_path, CELL, CellResult(figures={"auc": 0.7}))
    for other in (
        replace(CELL, seed=2),
        replace(CELL, data="e"),
        replace(CELL, config=override(CELL.config, ["training.learning_rate=0.5"])),
        Cell(data="d", seed=1, classical="trees"),
    ):
        assert read_cell(tmp_path, other) is None
        (tmp_path / CELL.file_name).rename(tmp_path / other.file_name)  # nor under that one's name
        assert read_cell(tmp_path, other) is None
        (tmp_path / other.file_name).rename(tmp_path / CELL.file_name)


def test_how_a_cell_is_computed_is_no_part_of_what_it_is() -> None:
    assert CELL.config is not None
    elsewhere = replace(CELL, config=replace(CELL.config, threads=7, recipe="mine"))
    assert elsewhere.identity == CELL.identity


def test_finished_cells_are_kept_and_edited_ones_computed_again(world: Path, tmp_path: Path) -> None:
    first = study(world, tmp_path, "overall", *ONE)
    cells = {path: path.read_bytes() for path in (tmp_path / "cells").glob("*.json")}
    times = {path: path.stat().st_mtime_ns for path in cells}
    edited = next(path for path in cells if path.name.startswith("mlp-small-0-"))
    content = json.loads(cells[edited])
    content["figures"]["test"]["all"]["auc"] = 0.999
    edited.write_text(json.dumps(content))
    again = study(world, tmp_path, "overall", *ONE)
    assert [row["parts"] for row in again["rows"]] == [row["parts"] for row in first["rows"]]
    assert {path for path in cells if path.stat().st_mtime_ns != times[path]} == {edited}


@pytest.mark.slow
def test_several_jobs_compute_the_same(world: Path, tmp_path: Path) -> None:
    only = ("--seeds", "1", "--grid", "none", "--only", "genrank")
    one, two = (study(world, tmp_path / jobs, "table1", *only, "--jobs", jobs) for jobs in ("1", "2"))
    for alone, beside in zip(one["rows"], two["rows"], strict=True):
        assert beside["seeds"] == alone["seeds"] == 1
        auc, other = alone["parts"]["all"]["auc"], beside["parts"]["all"]["auc"]
        assert other["values"] == pytest.approx(auc["values"], abs=1e-3)  # threads may add up in another order


DIVERGES = ("--only", "genrank", "--seeds", "1", "--set", "training.clip=1e30", "--grid")


def test_a_failed_cell_is_reported_and_the_others_go_on(world: Path, tmp_path: Path) -> None:
    result = study(world, tmp_path, "table1", *DIVERGES, "training.learning_rate=1e-3,1e30", "--trials", "3")
    assert [row["seeds"] for row in result["rows"]] == [1, 1]
    for choice in result["tuning"]:
        tried = {point["settings"][0]: point["valid_auc"] for point in choice["tried"]}
        assert tried["training.learning_rate=1e-3"] is not None
        assert tried["training.learning_rate=1e30"] is None
        assert choice["best"] != ["training.learning_rate=1e30"]


@pytest.mark.parametrize("jobs", mostly_slow(["1", "2"], often=["1"]))
def test_a_table_of_failures_says_what_they_were(jobs: str, world: Path, tmp_path: Path) -> None:
    result = study(world, tmp_path, "table1", *DIVERGES, "training.learning_rate=1e30", "--jobs", jobs)
    assert all(row["seeds"] == 0 and "the loss is" in row["errors"][0] for row in result["rows"])
    text = (tmp_path / "table1.md").read_text(encoding="utf-8")
    assert "genrank failed: " in text
    assert "| not measured |" in text


def test_a_budget_ends_a_study_with_whole_tables_of_fewer_seeds(world: Path, tmp_path: Path) -> None:
    result = study(world, tmp_path, "table1", "--minutes", "0.0001", "--grid", "none", "--only", "genrank")
    assert [row["seeds"] for row in result["rows"]] == [0, 0]
    assert "the budget ended before it" in (tmp_path / "table1.md").read_text(encoding="utf-8")
    result = study(world, tmp_path, "table1", "--seeds", "1", "--grid", "none", "--only", "genrank")
    assert [row["seeds"] for row in result["rows"]] == [1, 1]


@pytest.mark.parametrize("number", mostly_slow([signal.SIGINT, signal.SIGTERM], often=[signal.SIGINT]))
@pytest.mark.parametrize("jobs", mostly_slow(["1", "2"], often=["1"]))
def test_an_interrupted_study_loses_the_running_cell_only(
    number: int, jobs: str, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [flag for setting in TINY for flag in ("--set", setting)]
    only = ["--only", "genrank", "--grid", "none"]
    arguments = ["study", "table1", str(world), "--out", str(tmp_path), *settings, *only, "--seeds", "200"]
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    process = ForkedCommand([*arguments, "--jobs", jobs], tmp_path / "log")
    until = time.monotonic() + 120
    while not (done := finished(tmp_path)) and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(60) == 130
    said = (tmp_path / "log").read_text()
    assert done
    assert "run the same command again to continue" in said.splitlines()[-1]
    assert "Traceback" not in said
    assert not list((tmp_path / "tmp").glob("genrank-*"))  # no worker goes on, nothing is left of it
    kept = {path: path.stat().st_mtime_ns for path in finished(tmp_path)}
    study(world, tmp_path, "table1", *only, "--seeds", "1")
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def finished(folder: Path) -> list[Path]:
    return [path for path in (folder / "cells").glob("*.json") if not path.name.startswith("throughput")]


def test_a_cell_says_what_made_it_and_one_of_other_code_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cell(tmp_path, CELL, CellResult(figures={"auc": 0.7}))
    made = json.loads((tmp_path / CELL.file_name).read_text())["made"]
    assert made["code"] == code_digest()
    assert set(made["versions"]) == {"genrank", "torch", "numpy", "python"}
    assert read_cell(tmp_path, CELL) is not None
    monkeypatch.setattr("genrank.studies.cells.code_digest", lambda: "0" * 16)
    assert read_cell(tmp_path, CELL) is None


def test_the_code_of_a_cell_is_what_computing_it_imports() -> None:
    names = set(modules(CELL_CODE))
    assert {
        "genrank.models.sequence_ranker", "genrank.training.trainer", "genrank.training.objective", "genrank.nn.blocks",
        "genrank.data.sequence", "genrank.studies.judging", "genrank.retrieval.retriever", "genrank.evaluation.metrics",
    } <= names  # fmt: skip
    rooms = {name.split(".")[1] for name in names}
    assert not rooms & {"cli", "commands", "service", "simulation", "demo", "bench", "recipes"}
    assert not names & {"genrank.studies.study_tables", "genrank.studies.conclusions", "genrank.studies.contrasts"}


def test_comments_and_docstrings_do_not_change_the_code_and_a_number_does() -> None:
    plain = 'def f(x):\n    """Twice."""\n    # why\n    y = "# no comment"\n\n    return 2 * x  # twice\n'
    other = 'def f(x):\n    """Two times x,\n    exactly."""\n    y = "# no comment"\n    return 2 * x\n'
    assert significant(plain) == significant(other)
    assert '"# no comment"' in significant(plain)
    assert significant(plain) != significant(plain.replace("2 * x", "3 * x"))
