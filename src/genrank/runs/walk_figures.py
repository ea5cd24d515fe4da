"""What a walk keeps of the evaluation of a day."""

from pathlib import Path
from typing import Any

from genrank.evaluation.retrieval_metrics import HEADLINES
from genrank.runs.evaluate_ranking import evaluate_run
from genrank.runs.evaluate_retrieval import evaluate_retrieval

FIGURES = ("num_exposures", "auc", "gauc", "logloss", "ne", "pcoc", "mae", "xauc")
INTERVALS = ("auc_ci", "gauc_ci", "ne_ci", "pcoc_ci", "mae_ci")  # 95 %, by bootstrap over users
RETRIEVAL = ("num_targets", "num_requests", *HEADLINES, *(f"{name}_ci" for name in HEADLINES))


def judged_figures(run: Path, *, retrieves: bool) -> dict[str, Any]:
    """Evaluates a day's run: `tasks`, the figures of each task of a ranker, or `retrieval`, those of a retriever."""
    if retrieves:
        figures = evaluate_retrieval(run)["retrieval"]
        return {"retrieval": {name: figures[name] for name in RETRIEVAL if name in figures}}
    tasks = evaluate_run(run, report=False).tasks
    return {
        "tasks": {
            task: {name: row[name] for name in (*FIGURES, *INTERVALS) if name in row} for task, row in tasks.items()
        }
    }
