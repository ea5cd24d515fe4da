"""Nothing is read that isn't what was written: bundles, indexes, and the prepared folders beside them."""

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from genrank.artifacts.bundle import load_bundle
from genrank.artifacts.versioned import SHORTEST
from genrank.cli import main
from genrank.data import integrity
from genrank.data.manifest import Manifest
from genrank.errors import BundleError, DataError, GenRankError
from genrank.inference.gen_ranker import GenRanker
from genrank.inference.gen_retriever import GenRetriever, build_index
from genrank.inference.published import golden_requests
from genrank.runs.evaluate_ranking import evaluate_run


@pytest.fixture
def bundle(run: Path, tmp_path: Path) -> Path:
    """A copy of one version's folder."""
    folder = load_bundle(run).folder
    return Path(shutil.copytree(folder, tmp_path / folder.name))


def edit(*path: str, to: object) -> Callable[[Path], None]:
    """An edit of bundle.json."""

    def damage(bundle: Path) -> None:
        about = json.loads((bundle / "bundle.json").read_text())
        *parents, last = path
        values = about
        for parent in parents:
            values = values[parent]
        values[last] = to
        (bundle / "bundle.json").write_text(json.dumps(about))

    return damage


def swap(bundle: Path) -> None:
    (bundle / "items.parquet").rename(bundle / "aside")
    (bundle / "users.parquet").rename(bundle / "items.parquet")
    (bundle / "aside").rename(bundle / "users.parquet")


def link(bundle: Path) -> None:
    (bundle / "items.parquet").rename(bundle.parent / "items.parquet")
    (bundle / "items.parquet").symlink_to(bundle.parent / "items.parquet")


def link_folder(bundle: Path) -> None:
    (bundle / "vocab").rename(bundle.parent / "vocab")
    (bundle / "vocab").symlink_to(bundle.parent / "vocab")


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a setting of the model": (edit("model", "num_heads", to=4), "bundle.json was edited"),
    "the value": (edit("value", to={"click": -1.0}), "bundle.json was edited"),
    "no files": (edit("files", to={}), "bundle.json was edited"),
    "a file above": (edit("files", "../x", to="00"), "bundle.json was edited"),
    "an absolute file": (edit("files", "/etc/passwd", to="00"), "bundle.json was edited"),
    "the folder's name": (lambda bundle: bundle, "its folder renamed"),
    "a file missing": (lambda bundle: (bundle / "vocab" / "item_id.parquet").unlink(), "item_id.parquet: missing"),
    "a file added": (lambda bundle: (bundle / "vocab" / "new.parquet").touch(), "new.parquet: not among the files"),
    "files swapped": (swap, "damaged, its SHA-256 has changed"),
    "a link": (link, "items.parquet: a link"),
    "a linked folder": (link_folder, "missing, or outside"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_bundle_with_anything_changed_is_refused_in_one_line(bundle: Path, damage: str) -> None:
    change, said = DAMAGES[damage]
    change(bundle)
    if damage == "the folder's name":
        bundle = bundle.rename(bundle.with_name("0" * len(bundle.name)))
    with pytest.raises(BundleError, match=said) as refused:
        load_bundle(bundle)
    assert "\n" not in str(refused.value)
    assert "again" in str(refused.value) or "elsewhere" in str(refused.value)


@pytest.mark.parametrize("name", ["../items.parquet", "/etc/hostname"])
def test_a_listed_file_outside_of_the_folder_is_refused_before_it_is_read(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "items.parquet").write_bytes(b"x")
    files = {name: integrity.hash_file(folder / name)}
    with pytest.raises(DataError, match="outside of the folder"):
        integrity.FolderHashes(files=files, about="about.json", error=DataError, remedy="do").check(folder)


def test_bundles_with_the_shorter_versions_of_before_are_read(bundle: Path) -> None:
    before = bundle.rename(bundle.with_name(bundle.name[:SHORTEST]))
    assert load_bundle(before).version == before.name


READERS: dict[str, Callable[[Path, Path, Path], object]] = {
    "rank": lambda run, grank, data: GenRanker.load(run, data=data),
    "retrieve": lambda run, grank, data: GenRetriever.load(grank, data=data),
    "index": lambda run, grank, data: build_index(grank, data=data),
    "evaluate": lambda run, grank, data: evaluate_run(run, data=data),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("damage", ["items.parquet", "unlisted"])
def test_every_reader_refuses_a_damaged_prepared_folder(
    reader: str, damage: str, run: Path, grank: Path, data: Path, tmp_path: Path
) -> None:
    copied = Path(shutil.copytree(data, tmp_path / "data"))
    if damage == "unlisted":
        values = json.loads((copied / "manifest.json").read_text())
        del values["manifest_hash"]  # as of a folder that was prepared before there was one
        values["files"] = {}
        (copied / "manifest.json").write_text(json.dumps(values))
    else:
        content = (copied / damage).read_bytes()
        (copied / damage).write_bytes(content[:-9] + b"X" + content[-8:])
    with pytest.raises(GenRankError, match="not among the files" if damage == "unlisted" else "damaged"):
        READERS[reader](run, grank, copied)


def test_a_model_is_not_published_with_data_that_was_changed(run: Path, data: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(data, tmp_path / "data"))
    out = tmp_path / "run"
    settings = ["model.width=16", "model.num_heads=2", "threads=1", "training.epochs=1"]
    flags = [flag for setting in settings for flag in ("--set", setting)]
    assert main(["train", str(copied), "--recipe", "genrank-small", "--out", str(out), *flags]) == 0
    with (copied / "users.parquet").open("ab") as file:
        file.write(b"x")
    with pytest.raises(DataError, match=r"users\.parquet: damaged"):
        golden_requests(load_bundle(out))


@pytest.mark.parametrize("forgetful", [False, True])
def test_a_folder_found_whole_is_read_once_until_a_file_changes(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgetful: bool
) -> None:
    copied = Path(shutil.copytree(data, tmp_path / "data"))
    read: list[Path] = []
    hash_file = integrity.hash_file
    monkeypatch.setattr(integrity, "hash_file", lambda path: (read.append(path), hash_file(path))[1])
    monkeypatch.setattr(integrity, "SETTLED", -60.0)  # as if the files were old
    manifest = Manifest.open(copied)
    assert len(read) == len(manifest.files)
    if forgetful:  # as another process is: what it knows is in the folder
        monkeypatch.setattr(integrity, "_found_whole", {})
    else:
        (copied / integrity.STAMP).unlink()
    Manifest.open(copied)
    assert len(read) == len(manifest.files)
    about = (copied / "items.parquet").stat()
    content = (copied / "items.parquet").read_bytes()
    (copied / "items.parquet").write_bytes(content[:-9] + b"X" + content[-8:])
    os.utime(copied / "items.parquet", ns=(about.st_atime_ns, about.st_mtime_ns))  # same size, same time
    with pytest.raises(DataError, match=r"items\.parquet: damaged"):
        Manifest.open(copied)


def test_of_a_folder_that_has_grown_only_new_files_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    hash_file = integrity.hash_file
    monkeypatch.setattr(integrity, "hash_file", lambda path: (read.append(path.name), hash_file(path))[1])
    monkeypatch.setattr(integrity, "SETTLED", -60.0)  # as if the files were old
    for name in ("first", "second"):
        (tmp_path / name).write_text(name)
        files = integrity.hash_folder(tmp_path, but=integrity.STAMP)
        read.clear()
        integrity.FolderHashes(files=files, about="", error=DataError, remedy="do").check(tmp_path)
        assert read == [name]


def test_what_was_just_written_is_not_hashed_again_where_it_is_settled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("old", "new"):
        (tmp_path / name).write_text(name)
    settled = time.time() - 60
    os.utime(tmp_path / "old", (settled, settled))
    files = integrity.hash_folder(tmp_path)
    monkeypatch.setattr(integrity, "_settled", lambda entry, since: entry[1] < since * 1e9)  # nobody can set ctime
    integrity.remember_hashes(tmp_path, files, since=time.time())
    read: list[str] = []
    monkeypatch.setattr(integrity, "hash_file", lambda path: (read.append(path.name), files[path.name])[1])
    integrity.FolderHashes(files=files, about="", error=DataError, remedy="do").check(tmp_path)
    assert read == ["new"]


def test_a_file_that_has_just_changed_is_not_remembered(data: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(data, tmp_path / "data", ignore=shutil.ignore_patterns(integrity.STAMP)))
    Manifest.open(copied)
    assert not (copied / integrity.STAMP).exists()
