"""One process at a time in a folder; the lock of a dead one holds nobody up."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from genrank.cli import main
from genrank.errors import OutputError
from genrank.locks import Owner, locked

HOLD = """
import sys, time
from pathlib import Path
from genrank.locks import locked
with locked(Path(sys.argv[1]), what="the folder"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def held(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock in `tmp_path`."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / ".lock")], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_lock_that_is_held_is_refused_with_its_owner(held: subprocess.Popen[str], tmp_path: Path) -> None:
    refusal = pytest.raises(OutputError, match=rf"process {held.pid} on .* for \d+ seconds; wait")
    with refusal, locked(tmp_path / ".lock", what="the folder"):
        pass
    assert json.loads((tmp_path / ".lock").read_text())["pid"] == held.pid


def test_the_lock_of_a_killed_process_is_taken_over_and_goes_in_the_end(
    held: subprocess.Popen[str], tmp_path: Path
) -> None:
    held.send_signal(signal.SIGKILL)
    held.wait()
    assert (tmp_path / ".lock").exists()
    with locked(tmp_path / ".lock", what="the folder"):
        pass
    assert not (tmp_path / ".lock").exists()


def owner(**changes: object) -> str:
    return json.dumps(asdict(Owner.here()) | changes)


def test_the_lock_of_another_machine_is_believed_and_the_way_to_remove_it_is_named(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    path.write_text(owner(host="elsewhere", boot="another", since=time.time() - 3 * 86400))
    refusal = pytest.raises(OutputError, match=rf"on elsewhere .* for 3 days, as far .* remove {path}")
    with refusal, locked(path, what="the folder"):
        pass
    path.unlink()
    with locked(path, what="the folder"):
        pass


@pytest.mark.parametrize(
    "left",
    [owner(boot="before"), owner(host="another container"), "", "{", "[1]"],
    ids=["restart", "container", "empty", "cut short", "a list"],
)
def test_a_lock_of_before_a_restart_or_of_a_dead_container_or_cut_short_is_taken_over(
    tmp_path: Path, left: str
) -> None:
    (tmp_path / ".lock").write_text(left)
    with locked(tmp_path / ".lock", what="the folder"):
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()


def test_of_many_that_want_a_lock_one_has_it(tmp_path: Path) -> None:
    inside, most, taken = [0], [0], [0]

    def work() -> None:
        for _ in range(40):
            try:
                with locked(tmp_path / ".lock", what="the folder"):
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                    taken[0] += 1
                    time.sleep(0.0005)
                    inside[0] -= 1
            except OutputError:
                continue

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    assert taken[0] >= 8


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert main(list(arguments)) == 2
    said = capsys.readouterr().err
    assert "has been using it for" in said
    assert said.count("\n") == 1
    return said


def test_two_of_a_kind_in_one_folder_are_refused(
    feed: Path, data: Path, run: Path, grank: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = ("prepare", str(feed / "exposures"), "--schema", str(feed / "schema.toml"), "--out", str(tmp_path / "data"))
    models = tmp_path / "models"
    models.mkdir()
    for lock, command in {
        tmp_path / ".data.lock": log,
        run / ".lock": ("train", str(data), "--out", str(run), "--resume"),
        models / ".lock": ("publish", str(run), "--to", str(models)),
        grank / "index" / ".lock": ("index", str(grank)),
    }.items():
        with locked(lock, what="the folder"):
            refused(capsys, *command)
        assert not lock.exists()
    assert not (tmp_path / "data").exists()
    assert not list(models.iterdir())


def test_a_run_that_goes_on_clears_what_a_dead_one_left(data: Path, run: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(run, tmp_path / "run"))
    steps = sorted((copied / "checkpoints").glob("step-*"))
    left = [copied / ".config.json.part-1", copied / "bundle" / ".version.part", copied / "bundle" / ".staged"]
    left += [copied / "checkpoints" / ".step-00009999.part"]
    for path in left:
        path.mkdir()
        (path / "half").touch()
    steps[-1].rename(copied / "checkpoints" / f".{steps[-1].name}.old")  # killed while it was written once more
    (copied / ".lock").write_text(owner(boot="before"))
    assert main(["train", str(data), "--out", str(copied), "--resume"]) == 0
    assert not [path for path in left if path.exists()]
    assert not (copied / ".lock").exists()
    assert sorted((copied / "checkpoints").glob("step-*"))[-1].name == steps[-1].name


def test_a_run_whose_start_was_cut_short_can_be_started_again(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "data.json").write_text("{")
    (out / ".lock").write_text("")
    settings = ["model.width=16", "model.num_heads=2", "threads=1", "training.epochs=1", "train_share=0.2"]
    flags = [flag for setting in settings for flag in ("--set", setting)]
    assert main(["train", str(data), "--recipe", "genrank-small", "--out", str(out), *flags]) == 0
