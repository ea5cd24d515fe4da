from pathlib import Path

import pytest

from genrank.cli import main


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny feed with content embeddings, prepared with window statistics."""
    from genrank.simulation import WorldConfig, simulate

    folder = tmp_path_factory.mktemp("world")
    simulate(WorldConfig(num_users=30, num_days=4, num_items=100, new_items_per_day=20, num_topics=4), folder / "feed")
    arguments = ["--set", "statistics.enabled=true", "--set", "statistics.windows=['1d', 'all']"]
    log, schema = folder / "feed" / "exposures", folder / "feed" / "schema.toml"
    assert main(["prepare", str(log), "--schema", str(schema), "--out", str(folder / "data"), *arguments]) == 0
    return folder / "data"


@pytest.fixture(autouse=True)
def _brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rounds of throughput are measured, not two minutes of them."""
    monkeypatch.setattr("genrank.studies.suite.MAX_MEASURING_SECONDS", 0.0)
