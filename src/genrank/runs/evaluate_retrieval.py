"""The evaluation of a retrieval run: recall and NDCG over the full catalogue, composition of the lists, slices."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrank.artifacts.bundle import load_bundle
from genrank.config import to_dict
from genrank.data.pools import StoredData, StoredPart
from genrank.data.positives import require_positives
from genrank.data.prepared import Part
from genrank.evaluation.retrieval_metrics import RetrievedTargets, judge
from genrank.finite_json import json_text
from genrank.retrieval.retriever import Retriever
from genrank.retrieval.retriever_config import positive_task
from genrank.runs.judged_data import judged_stored
from genrank.runs.retrieval_objective import retrieval_view
from genrank.runs.retrieval_ranks import locate
from genrank.runs.run_config import RunConfig
from genrank.runs.run_data import evaluation_loading
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
    stored = judged_stored(bundle, data or trained_on, config)
    warnings = [to_dict(found) for found in stored.manifest.warnings]
    judged = judged_targets(model, stored, config, part) | {"warnings": warnings}
    (run / "evaluation.json").write_text(json_text(judged, indent=1), encoding="utf-8")
    return judged


def judged_targets(model: Retriever, stored: StoredData, config: RunConfig, part: Part) -> dict[str, Any]:
    """The document of `evaluate --json` for the model on a part: see evaluation/retrieval_metrics.py."""
    found, popularity = located(model, stored, config, part)
    evaluation = config.evaluation
    return judge(found, popularity, num_bootstrap=evaluation.num_bootstrap, seed=evaluation.seed)


def located(
    model: Retriever, stored: StoredData, config: RunConfig, part: Part
) -> tuple[RetrievedTargets, NDArray[np.int64]]:
    """The ranks of a part's targets, and (I) how often every item was a target in training.

    One bucket of users is in memory, and the next one, so that figures don't depend on `loader.max_exposures`.
    """
    spec = stored.manifest.spec
    require_positives(stored.folder, stored.manifest, positive_task(model.config, spec), part)
    seen = replace(stored, view=retrieval_view(model.config, spec))
    popularity = _target_counts(seen)
    of_users = StoredPart(
        data=seen,
        part=part,
        sequence=replace(config.sequence, grouping="user"),
        search=config.model.search,
        loading=replace(evaluation_loading(config), max_exposures=1),  # so each bucket is a pool
    )
    return locate(model, of_users, popularity=popularity), popularity


def _target_counts(stored: StoredData) -> NDArray[np.int64]:
    """(I) how often every item was a target before the end of training. Reads one bucket after another."""
    bare, counts = stored.labels_only(), np.zeros(len(stored.items), np.int64)
    for bucket in range(len(stored.rows)):
        t = bare.load((bucket,))
        assert t.request_time is not None  # they come from a file
        trained = t.target & (t.request_time < stored.manifest.split.valid_start)
        counts += np.bincount(t.item[trained], minlength=len(counts))
    return counts
