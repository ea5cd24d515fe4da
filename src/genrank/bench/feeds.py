"""Prepared data for benchmarks that need a log: a feed, simulated and prepared."""

from pathlib import Path

from genrank.data.prepared import PreparedData
from genrank.preparation.prepare import prepare
from genrank.preparation.sources.files import files
from genrank.simulation import WorldConfig, simulate


def simulated(folder: Path, config: WorldConfig) -> PreparedData:
    """A feed, simulated and prepared below `folder`."""
    simulate(config, folder / "feed")
    prepare_feed(folder / "feed", folder / "data")
    return PreparedData.load(folder / "data")


def prepare_feed(feed: Path, out: Path) -> None:
    """Prepare a simulated feed's log."""
    prepare(files([feed / "exposures"], schema=feed / "schema.toml"), out=out)
