"""The stages of each path of the service. To add a stage, put it into a list here.

A Stage (inference/stages.py) runs in the thread of the queue before it, a QueuedStage behind a queue of its own.
"""

from genrank.inference.stages import OrderStage, Stage
from genrank.server.clock import Clock
from genrank.server.queued_stage import QueuedStage
from genrank.server.served_pipeline import ServedPipeline

RANK, RETRIEVE, RECOMMEND = "/v1/rank", "/v1/retrieve", "/v1/recommend"


def pipelines_of(
    clock: Clock, *, ranking: QueuedStage | None = None, retrieval: QueuedStage | None = None
) -> dict[str, ServedPipeline]:
    """The pipelines, by path, for which there are stages."""
    stages: dict[str, list[QueuedStage | Stage]] = {}
    if ranking is not None:
        stages[RANK] = [ranking, OrderStage()]
    if retrieval is not None:
        stages[RETRIEVE] = [retrieval]
    if ranking is not None and retrieval is not None:
        stages[RECOMMEND] = [retrieval, ranking, OrderStage()]
    return {path: ServedPipeline(each, clock=clock) for path, each in stages.items()}
