"""A pipeline of the service: the stages of one path, of which those with a model have a queue each.

    ServedPipeline([retrieval.stage, ranking.stage, OrderStage()], clock=clock).submit(query)

A stage without a queue runs in the thread of the queue before it, one request at a time. A stage that is slow, or
faster for many requests at once, should have a queue of its own. The answer is that of a Pipeline of the same stages.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

from genrank.ids import check_id
from genrank.inference.pipeline import Pipeline
from genrank.inference.stages import Stage, StageCandidates
from genrank.server.clock import Clock
from genrank.server.query import PipelineQuery
from genrank.server.queued_stage import QueuedStage, QueueReport

Made = TypeVar("Made")


@dataclass(frozen=True, kw_only=True)
class PipelineOutcome:
    """A pipeline's answer to one query. time: seconds since the epoch. clock_behind: see RankAnswer.

    candidates: after the last stage. reports: by name, of the queues that the request went through.
    """

    query: PipelineQuery
    time: int
    clock_behind: float
    candidates: StageCandidates
    reports: dict[str, QueueReport]


class ServedPipeline:
    """Safe to use from several threads."""

    def __init__(self, stages: Sequence[QueuedStage | Stage], *, clock: Clock):
        """Raises ValueError if the first stage has no queue to run in, or if two queues have the same name."""
        self.clock = clock
        queues, followers = list[QueuedStage](), list[list[Stage]]()
        for stage in stages:
            if isinstance(stage, QueuedStage):
                queues.append(stage)
                followers.append([])
            elif queues:
                followers[-1].append(stage)
            else:
                raise ValueError(f"the stage {stage.name} is the first and has no queue; make it a QueuedStage")
        if not queues or len({queue.name for queue in queues}) < len(queues):
            raise ValueError(f"queues are {[queue.name for queue in queues]}; give at least one, each of another name")
        self.steps = tuple(zip(queues, map(Pipeline, followers), strict=True))

    @property
    def expected_wait(self) -> float:
        """Seconds that a new request would wait in the longest of the queues."""
        return max(queue.expected_wait for queue, _ in self.steps)

    def submit(self, query: PipelineQuery) -> "Future[PipelineOutcome]":
        """The future answer; if a later stage refuses the request, the future raises its RequestError or Overloaded.

        Raises RequestError for a bad query, Overloaded if the first stage has no time for it, Stopped.
        """
        check_id("user", query.user)
        passage = _Passage(self, query)
        passage.enter(StageCandidates.given(query.candidates))
        return passage.answer


class _Passage:
    """One request on its way from queue to queue."""

    def __init__(self, pipeline: ServedPipeline, query: PipelineQuery):
        self.left, self.query = list(pipeline.steps), query
        self.time, self.behind = pipeline.clock.of(query.time)
        self.reports: dict[str, QueueReport] = {}
        self.answer: Future[PipelineOutcome] = Future()
        self.answer.add_done_callback(self._cancel)
        self._waiting: Future[QueueReport] | None = None

    def enter(self, candidates: StageCandidates) -> None:
        """Go into the next queue."""
        queue, followers = self.left.pop(0)
        self._waiting = queue.submit(self.query, candidates, time=self.time, followers=followers)
        self._waiting.add_done_callback(lambda done: self._leave(queue, done))

    def _leave(self, queue: QueuedStage, done: "Future[QueueReport]") -> None:
        """Go on after a queue; called in its thread."""
        self._waiting = None  # it knows this passage: without cycles, memory is free as soon as the answer is sent
        if self.answer.cancelled():
            return
        try:
            report = self.reports[queue.name] = done.result()
            while self.left and self.left[0][0].needs_candidates and not len(report.candidates):
                self.left.pop(0)
            if self.left:
                self.enter(report.candidates)
            elif self.answer.set_running_or_notify_cancel():
                self.answer.set_result(self._outcome(report.candidates))
                del self.answer
        except BaseException as problem:  # noqa: BLE001 - whatever it is, it is the caller's to see
            if self.answer.set_running_or_notify_cancel():
                self.answer.set_exception(problem)

    def _outcome(self, candidates: StageCandidates) -> PipelineOutcome:
        return PipelineOutcome(
            query=self.query,
            time=self.time,
            clock_behind=self.behind,
            candidates=candidates,
            reports=self.reports,
        )

    def _cancel(self, answer: "Future[PipelineOutcome]") -> None:
        if answer.cancelled() and self._waiting is not None:
            self._waiting.cancel()


def then(running: "Future[PipelineOutcome]", make: Callable[[PipelineOutcome], Made]) -> "Future[Made]":
    """The future result of `make`, called with the outcome."""
    made: Future[Made] = Future()

    def done(outcome: "Future[PipelineOutcome]") -> None:
        try:
            made.set_result(make(outcome.result()))
        except BaseException as problem:  # noqa: BLE001 - whatever it is, it is the caller's to see
            made.set_exception(problem)

    running.add_done_callback(done)
    return made
