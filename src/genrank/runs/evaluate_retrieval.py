"""The evaluation of a retrieval run: recall and NDCG over the full catalogue, composition of the lists, slices."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrank.artifacts.bundle import load_bundle
from genrank.config import to_dict
from genrank.data.loader import Loader, LoaderConfig
from genrank.data.prepared import Part, PreparedData
from genrank.evaluation.retrieval_metrics import RetrievedTargets, judge
from genrank.finite_json import json_text
from genrank.retrieval.retriever import Retriever
from genrank.runs.judged_data import judged_data
from genrank.runs.retrieval_objective import locate, retrieval_data
from genrank.runs.run_config import RunConfig
from genrank.runs.train import configure_torch, load_run


def evaluate_retrieval(
    run: Path, *, data: Path | None = None, part: Part = "test", device: str | None = None
) -> dict[str, Any]:
    """Evaluate the newest bundle of `run` on a part of its data, or of `data`; writes evaluation.json.

    device: None: the run's.
    """
    config, trained_on = load_run(run)
    on = configure_torch(replace(config, device=device or config.device))
    bundle = load_bundle(run)
    model = bundle.retriever(on)
    prepared = judged_data(bundle, data or trained_on, config)
    warnings = [to_dict(found) for found in prepared.manifest.warnings]
    judged = judged_targets(model, prepared, config, part) | {"warnings": warnings}
    (run / "evaluation.json").write_text(json_text(judged, indent=1), encoding="utf-8")
    return judged


def judged_targets(model: Retriever, data: PreparedData, config: RunConfig, part: Part) -> dict[str, Any]:
    """The document of `evaluate --json` for the model on a part: see evaluation/retrieval_metrics.py."""
    found, popularity = located(model, data, config, part)
    evaluation = config.evaluation
    return judge(found, popularity, num_bootstrap=evaluation.num_bootstrap, seed=evaluation.seed)


def located(
    model: Retriever, data: PreparedData, config: RunConfig, part: Part
) -> tuple[RetrievedTargets, NDArray[np.int64]]:
    """The ranks of a part's targets, and (I) how often every item was a target in training."""
    data = retrieval_data(data, model.config)
    builder = data.builder(replace(config.sequence, grouping="user"), config.model.search)
    loader = Loader(
        builder, data.part(builder, part), LoaderConfig(batch_tokens=config.evaluation.batch_tokens, shuffle=False)
    )
    t = data.timelines
    trained = t.target & (builder.request_time < data.manifest.split.valid_start)
    popularity = np.bincount(t.item[trained], minlength=len(data.items))
    return locate(model, loader, popularity=popularity), popularity
