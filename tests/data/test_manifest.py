import json
from dataclasses import replace
from pathlib import Path

import pytest

from exposure_logs import Prepared, log, prepare_log
from genrank.data.manifest import Manifest
from genrank.errors import DataError


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare_log(tmp_path_factory.mktemp("made"), log())


@pytest.fixture
def text(made: Prepared) -> str:
    return (made.folder / "manifest.json").read_text()


def test_what_is_saved_is_loaded(made: Prepared) -> None:
    assert Manifest.load(made.folder) == made.manifest


def test_every_file_is_listed_and_whole(made: Prepared) -> None:
    made.manifest.verify(made.folder)
    assert set(made.manifest.files) == set(made.bytes())


def test_the_manifest_says_what_the_contract_promises(text: str) -> None:
    values = json.loads(text)
    assert set(values) == {
        *("format", "genrank_version", "versions", "schema", "schema_hash", "spec", "spec_hash", "boundaries"),
        *("split", "counts", "dropped", "warnings", "files", "source", "base_rates", "late_actions", "manifest_hash"),
        "layout",
    }
    assert set(values["counts"]["test"]) == {"exposures", "requests", "positives"}


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('"format": 4', '"format": 5', "expected format 4, found 5"),
        ('"name": "tiny"', '"name": "tinny"', "schema_hash"),
        ('"size": 11', '"size": 12', "spec_hash"),
        ('"exposures": 60', '"exposures": "many"', "expected int"),
        ('"exposures": 60', '"exposures": 61', "manifest_hash"),
        ("{", "", "damaged"),
    ],
)
def test_edited_and_damaged_manifests_are_refused(
    tmp_path: Path, text: str, before: str, after: str, message: str
) -> None:
    assert before in text
    (tmp_path / "manifest.json").write_text(text.replace(before, after, 1))
    with pytest.raises(DataError, match=message):
        Manifest.load(tmp_path)


def test_a_folder_without_a_manifest_is_no_prepared_data(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="run genrank prepare first"):
        Manifest.load(tmp_path / "nowhere")


@pytest.mark.parametrize("damage", ["change", "remove"])
def test_a_damaged_file_is_named(tmp_path: Path, damage: str) -> None:
    made = prepare_log(tmp_path, log())
    path = made.folder / "vocab" / "item_id.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    if damage == "remove":
        path.unlink()
    with pytest.raises(DataError, match=r"item_id\.parquet"):
        made.manifest.verify(made.folder)


def test_a_folder_that_is_extended_while_it_is_opened_is_read_as_it_is_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = prepare_log(tmp_path, log())
    gone = "vocab/item_id.parquet"
    newer = replace(made.manifest, files={name: value for name, value in made.manifest.files.items() if name != gone})
    verify = Manifest.verify

    def verified_late(manifest: Manifest, folder: Path) -> None:
        if manifest == made.manifest:
            (folder / gone).unlink()
            newer.save(folder)
        verify(manifest, folder)

    monkeypatch.setattr(Manifest, "verify", verified_late)
    assert Manifest.open(made.folder) == newer
    (made.folder / "items.parquet").unlink()
    with pytest.raises(DataError, match=r"items\.parquet: missing"):
        Manifest.open(made.folder)
