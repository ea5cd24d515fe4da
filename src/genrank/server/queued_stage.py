"""A stage behind its queue, so that requests of many callers, and of several pipelines, share its batches.

The model of a stage may be replaced while requests wait: each is done by the model that was current when it came.
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
    """What a queue works with: a stage, and how a query is put to it."""

    @property
    def stage(self) -> Stage:
        """That the queue runs."""

    def request(self, query: PipelineQuery, candidates: StageCandidates, *, time: int) -> StageRequest:
        """The query for this stage, and for those that run behind it without a queue. RequestError where it can't be
        done."""


@dataclass(frozen=True, kw_only=True, eq=False)
class StageJob:
    """A request that waits for a stage. followers: stages without a queue that run on its candidates afterwards."""

    model: ServedModel
    request: StageRequest
    candidates: StageCandidates
    followers: Pipeline
    began: float


@dataclass(frozen=True, kw_only=True)
class QueueReport:
    """What came of a job. waited, worked: seconds in the queue, and of the whole batch."""

    model: ServedModel
    candidates: StageCandidates
    stages: tuple[StageReport, ...]  # the queue's own stage, then its followers
    waited: float
    worked: float


class QueuedStage:
    """Safe to use from several threads. needs_candidates: a request that has none left is not put to it."""

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
        """current: the model for a request that comes now. cost, batch_cost, wait: see Batcher; deadline: seconds.

        noted: is told of every job that was done.
        """
        self.name, self.needs_candidates = name, needs_candidates
        self._current, self._deadline, self._noted = current, deadline, noted
        self._batcher: Batcher[StageJob, QueueReport] = Batcher(
            self._work, cost=lambda job: cost(job.candidates), batch_cost=batch_cost, wait=wait
        )

    @property
    def expected_wait(self) -> float:
        """Seconds that a request would wait now."""
        return self._batcher.expected_wait

    @property
    def failure(self) -> str:
        """Why the stage does no more work, empty where all is well."""
        return self._batcher.failure and f"{self.name}: {self._batcher.failure}"

    def submit(
        self, query: PipelineQuery, candidates: StageCandidates, *, time: int, followers: Pipeline
    ) -> "Future[QueueReport]":
        """The report to come. Raises what ServedModel.request and Batcher.submit raise."""
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
        """Finish what waits, take no more."""
        self._batcher.stop()

    def _work(self, batch: Sequence[StageJob]) -> list[QueueReport]:
        begun = _now()
        answers: dict[StageJob, PipelineAnswer] = {}
        for model in dict.fromkeys(job.model for job in batch):  # two, if it was replaced just now
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
