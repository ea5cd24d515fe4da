import errno
from pathlib import Path

import pytest
import torch

from genrank.artifacts.bundle import load_bundle, write_bundle
from genrank.data.manifest import Manifest
from genrank.errors import OutputError


def test_a_saved_model_is_loaded_equal(run: Path) -> None:
    bundle = load_bundle(run)
    one, other = bundle.model().state_dict(), load_bundle(bundle.folder).model().state_dict()
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert not bundle.model().training


def test_a_full_disk_leaves_the_bundle_before_live(run: Path, data: Path, tmp_path: Path, monkeypatch) -> None:
    bundle = load_bundle(run)
    arguments = {"data": data, "sequence": bundle.config.sequence, "value": bundle.config.value}
    first = write_bundle(tmp_path, bundle.model(), **arguments)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("genrank.artifacts.bundle.save_file", full)
    with pytest.raises(OutputError, match=r"No space left on device.*make room"):
        write_bundle(tmp_path, bundle.model(), **arguments)
    assert load_bundle(tmp_path).folder == first
    assert {path.name for path in tmp_path.iterdir()} == {first.name, "latest"}


def test_a_bundle_carries_schema_vocabularies_and_boundaries_but_no_pickle(run: Path, data: Path) -> None:
    bundle = load_bundle(run)
    assert bundle.manifest == Manifest.load(data)
    assert {"model.safetensors", "manifest.json", "vocab/item_id.parquet", "embeddings/content.npy"} <= set(
        bundle.config.files
    )
    assert not [path for path in run.rglob("*") if path.suffix in (".pt", ".pth", ".pkl", ".bin")]
