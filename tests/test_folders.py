"""New folders are complete or absent, and what can't be written is refused before the work begins."""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from genrank.cli import main
from genrank.errors import BundleError, OutputError
from genrank.folders import clear_leftovers, new_folder, read_pointer, refuse_occupied


def fill(out: Path) -> None:
    with new_folder(out) as part:
        (part / "file").write_text("x")


def test_a_link_to_an_empty_folder_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    fill(tmp_path / "out")
    assert (tmp_path / "disk" / "file").read_text() == "x"
    assert (tmp_path / "out").is_symlink()
    assert {path.name for path in tmp_path.iterdir()} == {"disk", "out"}


def mount(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out.mkdir()

    def busy(path: Path) -> None:
        raise OSError(errno.EBUSY, "Device or resource busy", str(path))

    monkeypatch.setattr(Path, "rmdir", busy)


def work_in(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out.mkdir()
    monkeypatch.chdir(out)


@pytest.mark.parametrize("make", [mount, work_in])
def test_a_folder_that_cannot_be_replaced_is_refused_before_the_work_begins(
    make: Callable[[Path, pytest.MonkeyPatch], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "out", monkeypatch)
    begun = pytest.raises(OutputError, match=r"a mount point or in use.*name a new folder in it")
    with begun, new_folder(tmp_path / "out"):
        pytest.fail("the work has begun")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("command", ["prepare", "train", "simulate"])
def test_a_link_to_nothing_is_refused(
    command: str, feed: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.symlink_to(tmp_path / "gone")
    arguments = {
        "prepare": [str(feed / "exposures"), "--schema", str(feed / "schema.toml"), "--out", str(out)],
        "train": [str(data), "--out", str(out)],
        "simulate": [str(out)],
    }[command]
    assert main([command, *arguments]) == 2
    assert "link to nothing" in capsys.readouterr().err
    assert not (tmp_path / "gone").exists()


def test_a_name_that_is_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="File name too long"):
        refuse_occupied(tmp_path / ("x" * 300))


def test_what_a_dead_process_left_of_the_same_folder_goes_and_of_others_stays(tmp_path: Path) -> None:
    for name in (".out.part", ".out.part-123", ".out.more.part"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").touch()
    fill(tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"out", ".out.more.part"}


def test_what_came_into_the_folder_meanwhile_is_not_lost(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "file").touch()
    with pytest.raises(OutputError, match="can't be written"), new_folder(tmp_path / "out"):
        (tmp_path / "theirs").rename(tmp_path / "out")
    assert (tmp_path / "out" / "file").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("text", [b"", b"..", b"../x", b"a/b", b"\xff", b"\x00", b"a\nb", b"." * 3, b"x" * 5000])
def test_a_pointer_names_what_is_beside_it(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "latest").write_bytes(text)
    with pytest.raises(BundleError, match="do this") as refused:
        read_pointer(tmp_path / "latest", error=BundleError, remedy="do this")
    assert len(str(refused.value)) < 600


def test_hidden_names_of_others_are_no_leftovers(tmp_path: Path) -> None:
    for name in (".partners", ".old", ".run.partial", ".part"):
        (tmp_path / name).mkdir()
    (tmp_path / ".run.part-17").mkdir()
    clear_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".old", ".part", ".partners", ".run.partial"]
