from pathlib import Path

import pytest

from conftest_service import serve  # noqa: F401 - a fixture
from counted_logs import counted_feed
from genrank.cli import main


@pytest.fixture(scope="session")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny run on a feed with window statistics."""
    folder = tmp_path_factory.mktemp("counted")
    data = counted_feed(folder, num_users=20, num_days=4, num_items=60, new_items_per_day=5)
    tiny = [flag for text in ("model.width=16", "model.num_heads=2", "training.epochs=1", "threads=1")
            for flag in ("--set", text)]  # fmt: skip
    assert main(["train", str(data), "--recipe", "genrank-small", "--out", str(folder / "run"), *tiny]) == 0
    return folder / "run"
