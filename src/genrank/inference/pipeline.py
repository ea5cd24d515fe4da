"""A pipeline: stages one after another over the requests of many users, without HTTP.

    pipeline = Pipeline([RetrievalStage(retriever.engine), RankingStage(ranker.engine), OrderStage()])
    (answer,) = pipeline.run([StageRequest(user="u42", time=now, weights={"click": 1.0}, top_k=20, retrieval=…)])

The service runs the same stages behind queues (server/), so its answers equal those of a pipeline offline.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from genrank.inference.stages import Stage, StageCandidates, StageRequest


@dataclass(frozen=True, kw_only=True)
class StageReport:
    """A stage's counts for one request. seconds: of the whole batch of the request."""

    stage: str
    num_in: int
    num_out: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class PipelineAnswer:
    """The candidates of one request after the last stage, and what each stage did."""

    candidates: StageCandidates
    reports: tuple[StageReport, ...]


class Pipeline:
    """Stages in their order. Safe to use from several threads if its stages are."""

    def __init__(self, stages: Sequence[Stage]):
        self.stages = tuple(stages)

    def run(
        self, requests: Sequence[StageRequest], candidates: Sequence[StageCandidates] | None = None
    ) -> list[PipelineAnswer]:
        """The answers, in the order of the requests. candidates: input of the first stage; None: none."""
        current = list(candidates) if candidates is not None else [StageCandidates.given(()) for _ in requests]
        reports: list[list[StageReport]] = [[] for _ in requests]
        for stage in self.stages:
            began = time.monotonic()
            after = stage.run(requests, current)
            seconds = time.monotonic() - began
            for mine, one, other in zip(reports, current, after, strict=True):
                mine.append(StageReport(stage=stage.name, num_in=len(one), num_out=len(other), seconds=seconds))
            current = after
        return [
            PipelineAnswer(candidates=each, reports=tuple(mine)) for each, mine in zip(current, reports, strict=True)
        ]
