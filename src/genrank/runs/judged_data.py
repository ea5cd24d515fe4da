"""The prepared data on which a run is judged, read with what its model knows."""

from dataclasses import replace
from pathlib import Path

from genrank.artifacts.bundle import Bundle, require_same_schema
from genrank.data.learned_days import with_learned_days
from genrank.data.manifest import Manifest
from genrank.data.pools import StoredData
from genrank.runs.run_config import RunConfig


def judged_stored(bundle: Bundle, folder: Path, config: RunConfig, *, at_once: bool = False) -> StoredData:
    """`folder` with the parts of the run's days; values that the model doesn't know have index 0.

    at_once: see Timelines.

    BundleError where it was prepared with another schema or other vocabularies, DataError where it is damaged.
    """
    manifest = with_learned_days(Manifest.open(folder), folder, config.days)
    require_same_schema(bundle, folder, manifest)
    known = replace(manifest, spec=bundle.manifest.spec)
    return StoredData.read(folder, known, at_once=at_once, recount=bool(config.days))
