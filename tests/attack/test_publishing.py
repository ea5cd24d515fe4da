"""Killed, or out of space, at every single change to the disk: what is read is the old or the new, whole, and doing it
again completes it."""

import errno
import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from genrank.artifacts.bundle import load_bundle, write_bundle
from genrank.artifacts.index import load_index, write_index
from genrank.cli import main
from genrank.errors import GenRankError, OutputError
from genrank.folders import clear_leftovers, new_folder
from genrank.inference import published as versions
from genrank.inference.published import check_golden, current, publish, roll_back
from genrank.training.checkpoint import Checkpoints
from interruption import Killed, interrupted

pytestmark = pytest.mark.slow
ENDINGS = (".staged", ".lock", ".old")


@dataclass(frozen=True, kw_only=True)
class Writing:
    """One way of writing. seen: what a reader finds; GenRankError where there is nothing yet."""

    write: Callable[[Path], object]
    seen: Callable[[Path], str]


def served(folder: Path) -> str:
    bundle = load_bundle(folder / current(folder))
    check_golden(bundle)
    return bundle.version


def listed(folder: Path) -> str:
    return (folder / "made" / "list").read_text() if (folder / "made").exists() else ""


def write_folder(folder: Path, text: str = "new") -> None:
    complete = (folder / "made").exists()
    with suppress(OutputError) if complete else nullcontext(), new_folder(folder / "made") as part:
        (part / "sub").mkdir()
        (part / "sub" / "data").write_text("data")
        (part / "list").write_text(text)


def checkpoint(folder: Path) -> str:
    latest = Checkpoints(folder).latest()
    return "" if latest is None else json.dumps(Checkpoints.load(latest)[1])


def save_checkpoint(folder: Path, step: int) -> None:
    Checkpoints(folder).save(step, {"weights": torch.full((4,), float(step))}, {"step": step})


def index(folder: Path, value: float) -> object:
    vectors = np.full((3, 4), value, np.float32)
    return write_index(folder, model="m", ids=["a", "b", "c"], embedded_IW=vectors)


@pytest.fixture(scope="module")
def other(run: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of another run."""
    bundle, out = load_bundle(run), tmp_path_factory.mktemp("other")
    model = bundle.model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)
    write_bundle(out, model, data=data, sequence=bundle.config.sequence, value=bundle.config.value)
    return out


@pytest.fixture
def writing(request: pytest.FixtureRequest, run: Path, other: Path, data: Path, monkeypatch) -> Writing:
    bundle, changed = load_bundle(run), load_bundle(other).model()
    arguments = {"data": data, "sequence": bundle.config.sequence, "value": bundle.config.value}
    golden = {each.version: versions.golden_requests(each) for each in (bundle, load_bundle(other))}
    monkeypatch.setattr(versions, "golden_requests", lambda each: golden[each.version])
    monkeypatch.setattr(versions, "_alone", lambda *_, **__: None)  # scoring takes time and writes nothing
    monkeypatch.setattr(versions, "_answered", lambda _, golden, bundle: golden)
    return {
        "publish": Writing(write=lambda folder: publish(other, folder), seen=served),
        "roll back": Writing(
            write=lambda folder: publish(run, folder) if current(folder) == first(folder) else roll_back(folder),
            seen=served,
        ),
        "bundle": Writing(
            write=lambda folder: write_bundle(folder, changed, **arguments),
            seen=lambda folder: load_bundle(folder).version,
        ),
        "index": Writing(
            write=lambda folder: index(folder, 2.0),
            seen=lambda folder: load_index(folder, model="m", width=4).version,
        ),
        "checkpoint": Writing(write=lambda folder: save_checkpoint(folder, 2), seen=checkpoint),
        "the same checkpoint": Writing(write=lambda folder: save_checkpoint(folder, 1), seen=checkpoint),
        "folder": Writing(write=write_folder, seen=listed),
    }[request.param]


def first(folder: Path) -> str:
    return (folder / "history").read_text().split()[0]


def start(kind: str, folder: Path, run: Path, other: Path) -> None:
    """What was there before."""
    folder.mkdir()
    if kind in ("publish", "roll back"):
        publish(run, folder)
    if kind == "roll back":
        publish(other, folder)
    if kind == "bundle":
        shutil.copytree(run / "bundle", folder, dirs_exist_ok=True)
    if kind == "index":
        index(folder, 1.0)
    if "checkpoint" in kind:
        save_checkpoint(folder, 1)


def seen_by(writing: Writing, folder: Path) -> str:
    try:
        return writing.seen(folder)
    except GenRankError as problem:
        return f"nothing: {problem}"


def refusal(writing: Writing, folder: Path) -> str:
    """What it is refused with; empty where it isn't."""
    try:
        writing.write(folder)
    except OutputError as problem:
        return str(problem)
    return ""


def leftovers(folder: Path) -> list[str]:
    names = [path.name for path in folder.rglob("*")]
    return [name for name in names if name.endswith(ENDINGS) or (name.startswith(".") and ".part" in name)]


FULL = ("publish", "index", "checkpoint", "folder")
KINDS = ("publish", "roll back", "bundle", "index", "checkpoint", "folder")


@pytest.mark.parametrize(("kind", "writing"), [(kind, kind) for kind in KINDS], indirect=["writing"])
def test_killed_at_any_change_the_old_or_the_new_is_there_and_writing_again_completes_it(
    kind: str, writing: Writing, run: Path, other: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    start(kind, tmp_path / "whole", run, other)
    before = seen_by(writing, tmp_path / "whole")
    writing.write(tmp_path / "whole")
    after = seen_by(writing, tmp_path / "whole")
    assert not leftovers(tmp_path / "whole")
    at, killed = 0, True
    while killed:
        at += 1
        folder = tmp_path / str(at)
        start(kind, folder, run, other)
        with interrupted(folder, at, Killed()) as interruption, suppress(Killed):
            writing.write(folder)
        killed = interruption.happened
        assert seen_by(writing, folder) in (before, after), at
        writing.write(folder)
        assert seen_by(writing, folder) == after, at
        assert not leftovers(folder), at
        shutil.rmtree(folder)
    assert at > 5
    record_property("killed at", f"{at - 1} changes")


@pytest.mark.parametrize(("kind", "writing"), [(kind, kind) for kind in FULL], indirect=["writing"])
def test_a_disk_that_is_full_at_any_change_is_one_line_and_leaves_nothing(
    kind: str, writing: Writing, run: Path, other: Path, tmp_path: Path
) -> None:
    at, failed = 0, True
    while failed:
        at += 1
        folder = tmp_path / str(at)
        start(kind, folder, run, other)
        before = seen_by(writing, folder)
        problem = OSError(errno.ENOSPC, "No space left on device")
        with interrupted(folder, at, problem) as interruption:
            said = refusal(writing, folder)
        if said:
            assert "No space left" in said, at
            assert "room" in said, at
            assert "\n" not in said, at
        failed = interruption.happened
        found = seen_by(writing, folder)
        writing.write(folder)
        assert found in (before, seen_by(writing, folder)), at
        assert not leftovers(folder), at
        shutil.rmtree(folder)


@pytest.mark.parametrize(("kind", "writing"), [("the same checkpoint",) * 2], indirect=["writing"])
def test_a_checkpoint_written_again_is_never_lost(kind: str, writing: Writing, run: Path, tmp_path: Path) -> None:
    for at in range(1, 60):
        folder = tmp_path / str(at)
        start(kind, folder, run, run)
        with interrupted(folder, at, Killed()) as interruption, suppress(Killed):
            writing.write(folder)
        clear_leftovers(folder)  # as train does before it goes on
        assert json.loads(writing.seen(folder))["step"] == 1, at
        if not interruption.happened:
            break
    else:
        pytest.fail("never came to its end")


def test_a_rollback_after_a_publication_that_was_cut_short_goes_to_a_version_that_was_current(
    run: Path, other: Path, tmp_path: Path
) -> None:
    publish(run, tmp_path)
    before = current(tmp_path)
    publish(other, tmp_path)
    (tmp_path / "current").write_text(before)  # killed between the history and the pointer
    assert main(["publish", "--to", str(tmp_path), "--roll-back"]) == 2
    publish(other, tmp_path)
    assert roll_back(tmp_path) == before
