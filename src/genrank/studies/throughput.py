"""Training throughput of a study's variants, measured in the same rounds: see bench/measure.py."""

import json
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from genrank.bench.machine import describe
from genrank.bench.measure import Figure, interleave
from genrank.bench.steps import Steps, num_exposures
from genrank.data.prepared import PreparedData
from genrank.documents import parse_json
from genrank.folders import replace_text
from genrank.runs.run_config import RunConfig
from genrank.runs.run_data import training_loader
from genrank.schema import fingerprint
from genrank.studies.cell_archive import cell_texts
from genrank.studies.cells import Cell
from genrank.studies.code import code_digest

NUM_BATCHES = 3  # the first batches of the run, in its shuffled order


def measure(
    configs: Mapping[str, RunConfig], baseline: str, data: PreparedData, folder: Path, *, seconds: float
) -> dict[str, Any]:
    """Per variant: exposures a second, the ratio to the baseline's (medians and quartiles), FLOPs an exposure.

    Stored in `folder`, or in its archive, and reused if all configurations, the code and the machine are the same.
    """
    data_hash = fingerprint(data.manifest.files)
    questions = {name: Cell(data=data_hash, seed=0, config=config).identity for name, config in configs.items()}
    asked = {"variants": questions, "baseline": baseline, "machine": describe(), "code": code_digest(__name__)}
    identity = fingerprint(asked)[:16]
    found = (_trusted(text, asked) for _, text in cell_texts(folder, identity))
    kept = next((figures for figures in found if figures is not None), None)
    if kept is not None:
        return kept
    steps = {name: _steps(config, data) for name, config in configs.items()}
    rounds = interleave({name: step.train_on_all for name, step in steps.items()}, seconds=seconds)
    exposures = {name: num_exposures(step.batches) for name, step in steps.items()}
    figures: dict[str, Any] = {}
    for name, step in steps.items():
        relative = rounds.ratio(baseline, name).times(exposures[name] / exposures[baseline])
        figures[name] = {
            "exposures_per_second": _plain(rounds.rate(name, exposures[name])),
            "over_baseline": _plain(relative),
            "flops_per_exposure": step.flops() * len(step.batches) / exposures[name],
        }
    content = {"asked": asked, "rounds": len(rounds), "figures": figures}
    folder.mkdir(parents=True, exist_ok=True)
    replace_text(folder / f"throughput-{identity}.json", json.dumps({**content, "digest": fingerprint(content)}) + "\n")
    return {"rounds": len(rounds), "machine": asked["machine"], "figures": figures}


def _trusted(text: bytes, asked: Mapping[str, Any]) -> dict[str, Any] | None:
    try:
        content = parse_json(text)
        digest = content.pop("digest")
        if digest != fingerprint(content) or content["asked"] != asked:
            return None
        return {"rounds": content["rounds"], "machine": asked["machine"], "figures": content["figures"]}
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _steps(config: RunConfig, data: PreparedData) -> Steps:
    builder = data.builder(config.sequence, config.model.search)
    loader = training_loader(data, builder, config)
    return Steps(config.ranker, loader, list(islice(loader, NUM_BATCHES)), training=config.training, seed=config.seed)


def _plain(figure: Figure) -> dict[str, float]:
    return {"value": figure.value, "low": figure.low, "high": figure.high}
