from pathlib import Path

import pytest

from counted_logs import counted_feed


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny feed with content embeddings and late actions, prepared with window statistics."""
    size = {"num_users": 30, "num_days": 4, "num_items": 100, "new_items_per_day": 20}
    return counted_feed(tmp_path_factory.mktemp("world"), **size, late_share=0.5, prefetched_share=0.7)


@pytest.fixture(autouse=True)
def _brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rounds of throughput are measured, not two minutes of them."""
    monkeypatch.setattr("genrank.studies.run_study.MAX_MEASURING_SECONDS", 0.0)
