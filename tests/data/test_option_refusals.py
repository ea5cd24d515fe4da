"""What the loader, the search and the check of folders refuse, and in which words."""

from pathlib import Path
from typing import Any

import pytest

from genrank.data.integrity import STAMP, FolderHashes, hash_folder
from genrank.data.loader import Loader, LoaderConfig
from genrank.data.past_search import SearchConfig
from genrank.data.sequence import SequenceConfig
from genrank.errors import DataError
from worlds import builder, timelines


@pytest.mark.parametrize("change", [{"batch_tokens": 0}, {"bucket_batches": 0}, {"max_exposures": 0}])
def test_a_loader_needs_room_for_a_token(change: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        LoaderConfig(**change)


@pytest.mark.parametrize("rank", [-1, 2])
def test_a_rank_is_one_of_all_ranks(rank: int) -> None:
    b = builder(timelines(lengths=[3]))
    with pytest.raises(ValueError, match=f"rank {rank} is not one of 2"):
        Loader(b, b.samples(), LoaderConfig(), rank=rank, num_ranks=2)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_retrieved": 0}, "num_retrieved is 0; it must be at least 1"),
        ({"max_events": -3}, "max_events is -3; it must be at least 1"),
        ({"by": "topic"}, "search.by names 'topic', but search.kind is none; set search.kind=hard"),
        ({"by": "topic", "kind": "soft"}, "search.kind is soft; set search.kind=hard"),
    ],
)
def test_a_search_that_makes_no_sense(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SearchConfig(**change)


def test_labels_once_is_of_losses_on_the_history() -> None:
    with pytest.raises(ValueError, match="labels_once needs loss_on_history, which is off"):
        SequenceConfig(labels_once=True)


@pytest.fixture
def hashed(tmp_path: Path) -> tuple[Path, FolderHashes]:
    """A folder with a file, and what it must hold."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "part").write_text("content", encoding="utf-8")
    return folder, FolderHashes(files=hash_folder(folder), about="about.json", error=DataError, remedy="copy it again")


def test_a_folder_that_cannot_be_read_is_named_with_the_remedy(hashed: tuple[Path, FolderHashes]) -> None:
    folder, hashes = hashed
    folder.rename(folder.with_name("elsewhere"))
    with pytest.raises(DataError, match=r"folder: can't be read \(No such file or directory\); copy it again"):
        hashes.check(folder)


def test_a_link_in_the_place_of_a_file_is_refused(hashed: tuple[Path, FolderHashes]) -> None:
    folder, hashes = hashed
    (folder / "part").rename(folder.parent / "part")
    (folder / "part").symlink_to(folder.parent / "part")
    with pytest.raises(DataError, match="part: a link or the like, not a file; put the file there, or copy it again"):
        hashes.check(folder)


def test_a_folder_that_cannot_be_written_to_is_checked_all_the_same(
    hashed: tuple[Path, FolderHashes], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, hashes = hashed

    def read_only(*_: object) -> None:
        raise OSError("Read-only file system")

    monkeypatch.setattr("genrank.data.integrity.SETTLED", -60.0)  # as if the file were a minute old
    monkeypatch.setattr(Path, "replace", read_only)
    hashes.check(folder)
    assert [path.name for path in folder.iterdir()] == ["part"]  # neither the note nor a part of it
    (folder / "part").write_text("Content", encoding="utf-8")
    with pytest.raises(DataError, match="part: damaged, its SHA-256 has changed; copy it again"):
        hashes.check(folder)


@pytest.mark.parametrize("note", ["", "[]", "{", '{"root": 1}'])
def test_a_note_that_all_was_whole_is_believed_only_where_it_fits(hashed: tuple[Path, FolderHashes], note: str) -> None:
    folder, hashes = hashed
    (folder / "part").write_text("Content", encoding="utf-8")
    (folder / STAMP).write_text(note, encoding="utf-8")
    with pytest.raises(DataError, match="damaged"):
        hashes.check(folder)
