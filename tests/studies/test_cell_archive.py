"""A finished study's cells in one file: the same cells, read as the loose ones are, whatever interrupts the packing."""

import gzip
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from genrank.cli import main
from genrank.errors import DataError, OutputError
from genrank.locks import locked
from genrank.recipes import recipe
from genrank.studies import cell_archive
from genrank.studies.again import judge_folder_again
from genrank.studies.cell_archive import archive_of, pack, read_archive
from genrank.studies.cells import Cell, CellResult, read_cell, write_cell
from interruption import Killed, interrupted
from miniatures import study

CELLS = [Cell(data="d", seed=seed, config=recipe("genrank-small")) for seed in range(3)]
RESULTS = [CellResult(figures={"test": {"all": {"auc": 0.5 + 0.125 * seed}}}) for seed in range(3)]
TABLE = ("table1", "--seeds", "1", "--grid", "none", "--only", "genrank")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two packed cells and a loose one."""
    made = tmp_path / "set" / "cells"
    for cell, result in zip(CELLS[:2], RESULTS[:2], strict=True):
        write_cell(made, cell, result)
    pack(made)
    write_cell(made, CELLS[2], RESULTS[2])
    return made


def read(folder: Path) -> list[CellResult | None]:
    return [read_cell(folder, cell) for cell in CELLS]


def files(folder: Path) -> dict[Path, bytes]:
    """All there is but for locks."""
    found = [path for path in folder.parent.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {path: path.read_bytes() for path in found}


def test_packed_cells_read_back_beside_loose_ones(folder: Path) -> None:
    assert read(folder) == RESULTS
    assert [path.name for path in folder.iterdir()] == [CELLS[2].file_name]
    packed = pack(folder)
    assert packed is not None
    assert (packed.num_cells, packed.num_added) == (3, 1)
    assert read(folder) == RESULTS
    assert not list(folder.iterdir())
    assert pack(folder) is None  # nothing is left to do


def test_the_same_cells_make_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    pack(folder)
    other = tmp_path / "other" / "cells"
    for cell, result in reversed(list(zip(CELLS, RESULTS, strict=True))):
        write_cell(other, cell, result)
        os.utime(other / cell.file_name, (1, 1))
    pack(other)
    assert archive_of(other).read_bytes() == archive_of(folder).read_bytes()


def test_a_loose_cell_takes_the_place_of_a_packed_one(folder: Path) -> None:
    newer = CellResult(figures={"test": {"all": {"auc": 0.99}}})
    write_cell(folder, CELLS[0], newer)
    (folder / CELLS[0].file_name).rename(folder / CELLS[0].file_name.replace("genrank-small", "mine"))
    for _ in range(2):
        assert read(folder) == [newer, *RESULTS[1:]]
        pack(folder)
    assert len(read_archive(folder)) == 3


def test_a_packed_cell_of_other_code_is_not_trusted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genrank.studies.cells.code_digest", lambda: "0" * 16)
    assert read(folder) == [None, None, None]


def test_a_kill_at_any_point_of_packing_loses_no_cell(folder: Path, tmp_path: Path) -> None:
    """Cells are read as before after every kill, and packing again ends as if nothing had happened."""
    whole = tmp_path / "whole"
    shutil.copytree(folder.parent, whole)
    pack(whole / "cells")
    for at in range(1, 100):
        place = tmp_path / f"kill-{at}" / "cells"
        shutil.copytree(folder.parent, place.parent)
        try:
            with interrupted(place.parent, at, Killed()) as interruption:
                pack(place)
        except Killed:
            pass
        assert read(place) == RESULTS, at
        pack(place)
        assert read(place) == RESULTS, at
        assert archive_of(place).read_bytes() == archive_of(whole / "cells").read_bytes(), at
        assert {path.name for path in place.parent.iterdir()} <= {"cells", "cells.jsonl.gz", ".cells.jsonl.gz.lock"}
        if not interruption.happened:
            break
    assert 5 < at < 99


def test_a_full_disk_leaves_everything_as_it_was(folder: Path) -> None:
    before = files(folder)
    for at in (2, 3, 4):
        full = interrupted(folder.parent, at, OSError(28, "No space left on device"))
        with full, pytest.raises(OutputError, match=r"cells\.jsonl\.gz.*: can't be .* \(No space left on device\)"):
            pack(folder)
        assert files(folder) == before


def test_an_archive_that_does_not_read_back_leaves_everything_as_it_was(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files(folder)
    sound = cell_archive._compressed
    monkeypatch.setattr(cell_archive, "_compressed", lambda cells: sound(dict(list(cells.items())[1:])))
    with pytest.raises(DataError, match="not what was written"):
        pack(folder)
    assert files(folder) == before


def test_a_cell_that_a_study_writes_meanwhile_stays(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    newer, sound = CellResult(figures={"test": {"all": {"auc": 0.99}}}), cell_archive._compressed

    def compressed(cells: Mapping[str, bytes]) -> bytes:
        write_cell(folder, CELLS[2], newer)
        return sound(cells)

    monkeypatch.setattr(cell_archive, "_compressed", compressed)
    pack(folder)
    assert read(folder) == [*RESULTS[:2], newer]


def test_one_process_packs_at_a_time(folder: Path) -> None:
    archive = archive_of(folder)
    with locked(archive.with_name(f".{archive.name}.lock"), what="x"), pytest.raises(OutputError, match="wait until"):
        pack(folder)
    assert read(folder) == RESULTS


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda content: b"", "damaged"),
        (lambda content: content[:-20], "damaged"),
        (lambda content: content[:60] + bytes([content[60] ^ 1]) + content[61:], "damaged"),
        (lambda content: b"version https://git-lfs.github.com/spec/v1\n", "Not a gzipped file"),
        (lambda content: gzip.compress(b"[]\n{}\n"), "1 cells"),
        (lambda content: gzip.compress(b'{"format": 1, "cells": ["a", "b"]}\n{}\n'), "1 cells"),
        (lambda content: gzip.compress(b'{"format": 1\n'), "delimiter"),
    ],
)
def test_a_damaged_archive_is_named_with_its_remedy(
    damage: Callable[[bytes], bytes], said: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = archive_of(folder)
    archive.write_bytes(damage(archive.read_bytes()))
    with pytest.raises(DataError, match=r"cells\.jsonl\.gz: damaged \(.*restore it.*or remove it") as problem:
        read_cell(folder, CELLS[0])
    assert said in str(problem.value)
    assert main(["results", str(folder.parent), "--pack"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(archive) in line
    assert read_cell(folder, CELLS[2]) == RESULTS[2]  # which is loose, and stays so
    archive.unlink()
    assert read(folder) == [None, None, RESULTS[2]]


def test_an_archive_of_a_later_format_is_not_called_damaged(folder: Path) -> None:
    archive_of(folder).write_bytes(gzip.compress(b'{"format": 2, "tables": {}}\n'))
    with pytest.raises(DataError, match="of format 2, expected 1; read it with a later genrank"):
        read_cell(folder, CELLS[0])


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"figures": {"auc": 1.0}, "error": "", "digest": "x"}'])
def test_a_cell_edited_by_hand_is_not_packed(text: str, folder: Path) -> None:
    (folder / CELLS[2].file_name).write_text(text)
    with pytest.raises(DataError, match=rf"{CELLS[2].file_name}: damaged \(.*remove it: the study computes it again"):
        pack(folder)
    assert (folder / CELLS[2].file_name).read_text() == text


def test_an_edited_cell_in_an_archive_is_not_packed_again(folder: Path) -> None:
    archive = archive_of(folder)
    archive.write_bytes(gzip.compress(gzip.decompress(archive.read_bytes()).replace(b'"auc":0.5}', b'"auc":0.9}')))
    assert read(folder) == [None, *RESULTS[1:]]
    with pytest.raises(DataError, match=r"cells\.jsonl\.gz, .*: damaged \(not as it was computed\); restore it"):
        pack(folder)


def test_a_study_run_again_finds_its_packed_cells_and_adds_others(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine"
    first = study(world, out, *TABLE)
    capsys.readouterr()
    assert main(["results", str(tmp_path), "--pack"]) == 0
    count = len(read_archive(out / "cells"))
    assert capsys.readouterr().out == f"{out / 'cells.jsonl.gz'}: {count} cells, {count} of them added\n"
    assert count >= 5  # two rankers, two baselines, throughput
    with monkeypatch.context() as patch:
        patch.setattr("genrank.studies.schedule.compute", lambda *_, **__: pytest.fail("a cell was computed twice"))
        patch.setattr("genrank.studies.throughput.interleave", lambda *_, **__: pytest.fail("measured twice"))
        again = study(world, out, *TABLE)
    changing = {"seconds"}
    assert {k: v for k, v in again.items() if k not in changing} == {
        k: v for k, v in first.items() if k not in changing
    }
    assert judge_folder_again(tmp_path) == []
    more = study(world, out, "table1", "--seeds", "2", "--grid", "none", "--only", "genrank")
    loose = {path.name for path in (out / "cells").glob("*.json")}
    assert [name.rpartition("-")[0] for name in loose if "throughput" not in name] == ["genrank-small-1"] * 2
    assert main(["results", str(tmp_path), "--pack"]) == 0
    assert set(read_archive(out / "cells")) >= loose
    assert [row["seeds"] for row in more["rows"]] == [2, 2]


def test_a_study_refuses_a_damaged_archive_before_it_computes_anything(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cells.jsonl.gz").write_bytes(b"x")
    monkeypatch.setattr("genrank.studies.schedule.compute", lambda *_, **__: pytest.fail("a cell was computed"))
    assert main(["study", str(TABLE[0]), str(world), "--out", str(tmp_path), *TABLE[1:]]) == 2
    assert "cells.jsonl.gz: damaged" in capsys.readouterr().err.splitlines()[-1]


def test_pages_of_a_folder_of_data_sets(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "all"
    result = study(world, folder / "mine", *TABLE)
    (folder / "notes.md").write_text("What a person says.\n", encoding="utf-8")
    capsys.readouterr()
    assert main(["results", str(folder), "--pages"]) == 0
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / "all.md"), str(folder / "mine.md")]
    summary, page = (path.read_text(encoding="utf-8") for path in (tmp_path / "all.md", folder / "mine.md"))
    verdicts = [finding["verdict"] for finding in result["findings"]]
    (row,) = [line for line in summary.splitlines() if line.startswith("| [mine](all/mine.md) | table1 |")]
    header = next(line for line in summary.splitlines() if line.startswith("| data set |")).split(" | ")
    counts = dict(zip(header[2:], row.split(" | ")[2:], strict=True))
    assert {name.strip(" |"): int(count.strip(" |")) for name, count in counts.items()} == {
        name: verdicts.count(name)
        for name in ("confirmed", "not confirmed", "undecided", "not comparable", "not measured")
    }
    assert "What a person says." in summary
    assert "genrank study table1 DATA" in page
    assert "genrank study table1 DATA" not in summary
    assert main(["results", str(folder / "mine"), "--pages"]) == 2
    assert "--pages is for the folder above it" in capsys.readouterr().err


def test_a_folder_without_cells_has_nothing_to_pack(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in (tmp_path, tmp_path / "nothing"):
        assert main(["results", str(folder), "--pack"]) == 2
        assert "no study's cells, here or one folder below" in capsys.readouterr().err


def test_cells_of_a_packed_folder_are_whole_lines_of_json(folder: Path) -> None:
    """So that any tool reads them: a list of names, then a cell a line."""
    header, *lines = gzip.decompress(archive_of(folder).read_bytes()).splitlines()
    assert json.loads(header) == {"format": 1, "cells": sorted(cell.file_name for cell in CELLS[:2])}
    assert [json.loads(line)["question"]["seed"] for line in lines] == [
        int(name.split("-")[2]) for name in json.loads(header)["cells"]
    ]
