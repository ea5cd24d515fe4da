"""A stage with a queue of its own, so that requests of many callers and of several pipelines share its batches.

The stage's model may be replaced while requests wait: each request is answered by the model that was current when the
request came.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

from genrank.inference.pipeline import Pipeline, PipelineAnswer, StageReport
from genrank.inference.stages import Stage, StageCandidates, StageRequest
from genrank.server.batcher import Batcher
from genrank.server.query import PipelineQuery


class ServedModel(Protocol):
    """A model that a queue runs: its stage, and how a caller's query becomes a request to that stage."""

    @property
    def stage(self) -> Stage:
        """The stage that the queue runs."""

    def request(self, query: PipelineQuery, candidates: StageCandidates, *, time: int) -> StageRequest:
        """The query as a request to this stage and to its followers. Raises RequestError if the stage can't do it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class StageJob:
    """A request that waits in a queue. followers: the stages without a queue that run after the queue's stage."""

    model: ServedModel
    request: StageRequest
    candidates: StageCandidates
    followers: Pipeline
    began: float


@dataclass(frozen=True, kw_only=True)
class QueueReport:
    """The result of a job. waited: seconds in the queue; worked: seconds that the whole batch took."""

    model: ServedModel
    candidates: StageCandidates
    stages: tuple[StageReport, ...]  # the queue's own stage, then its followers
    waited: float
    worked: float


class QueuedStage:
    """Safe to use from several threads. needs_candidates: requests without candidates skip this stage."""

    def __init__(
        self,
        name: str,
        current: Callable[[], ServedModel],
        *,
        cost: Callable[[StageCandidates], float],
        batch_cost: float,
        wait: float,
        deadline: float,
        needs_candidates: bool = True,
        noted: Callable[[StageJob, QueueReport], None] | None = None,
    ):
        """current: returns the current model. cost, batch_cost, wait: see Batcher. deadline: seconds.

        noted: is called with every finished job.
        """
        self.name, self.needs_candidates = name, needs_candidates
        self._current, self._deadline, self._noted = current, deadline, noted
        self._batcher: Batcher[StageJob, QueueReport] = Batcher(
            self._work, cost=lambda job: cost(job.candidates), batch_cost=batch_cost, wait=wait
        )

    @property
    def expected_wait(self) -> float:
        """Seconds that a new request would wait."""
        return self._batcher.expected_wait

    @property
    def failure(self) -> str:
        """Why the stage has stopped; empty if all is well."""
        return self._batcher.failure and f"{self.name}: {self._batcher.failure}"

    def submit(
        self, query: PipelineQuery, candidates: StageCandidates, *, time: int, followers: Pipeline
    ) -> "Future[QueueReport]":
        """The future report. Raises what ServedModel.request and Batcher.submit raise."""
        model = self._current()
        job = StageJob(
            model=model,
            request=model.request(query, candidates, time=time),
            candidates=candidates,
            followers=followers,
            began=_now(),
        )
        future = self._batcher.submit(job, within=self._deadline)
        if (noted := self._noted) is not None:
            future.add_done_callback(lambda done: None if _failed(done) else noted(job, done.result()))
        return future

    def stop(self) -> None:
        """Finish the waiting requests, and accept no more."""
        self._batcher.stop()

    def _work(self, batch: Sequence[StageJob]) -> list[QueueReport]:
        begun = _now()
        answers: dict[StageJob, PipelineAnswer] = {}
        for model in dict.fromkeys(job.model for job in batch):  # two, if the model was just replaced
            own = [job for job in batch if job.model is model]
            found = Pipeline([model.stage]).run([job.request for job in own], [job.candidates for job in own])
            answers |= zip(own, found, strict=True)
        followed = [job.followers.run([job.request], [answers[job].candidates])[0] for job in batch]
        worked = _now() - begun
        return [
            QueueReport(
                model=job.model,
                candidates=after.candidates,
                stages=(*answers[job].reports, *after.reports),
                waited=begun - job.began,
                worked=worked,
            )
            for job, after in zip(batch, followed, strict=True)
        ]


def _now() -> float:
    return time.monotonic()


def _failed(done: "Future[QueueReport]") -> bool:
    return done.cancelled() or done.exception() is not None
