"""One small world for all tests of the folder, and its log as arrays."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from genrank.simulation import SimulationSummary, WorldConfig, simulate

SMALL = WorldConfig(num_users=500, num_days=7, requests_per_day=3.0, num_items=800, new_items_per_day=60, seed=3)


def read_log(folder: Path) -> dict[str, Any]:
    """The exposures as NumPy columns."""
    table = pq.read_table(folder / "exposures")
    return {name: table[name].to_numpy() for name in table.column_names}


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SimulationSummary]:
    out = tmp_path_factory.mktemp("world") / "log"
    return out, simulate(SMALL, out)


@pytest.fixture(scope="session")
def log(world: tuple[Path, SimulationSummary]) -> dict[str, np.ndarray]:
    return read_log(world[0])


@pytest.fixture(scope="session")
def topic_of(world: tuple[Path, SimulationSummary]) -> dict[str, str]:
    items = pq.read_table(world[0] / "items.parquet")
    return dict(zip(items["item_id"].to_pylist(), items["topic"].to_pylist(), strict=True))
