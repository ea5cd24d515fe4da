"""Requests of many callers, computed in batches by one thread, with a short queue that refuses what it can't finish.

A job that would miss its deadline, judging by the measured speed, is refused at once: a caller that is refused within a
millisecond can ask another instance, one that is refused after the deadline can't. A job that has waited past its
deadline is dropped.

An exception of the work is raised to its callers. If the thread ends nevertheless, the cause is logged, waiting callers
get an error at once, and `failure` has the cause.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

from genrank.errors import GenRankError

log = logging.getLogger("genrank.server")
Job = TypeVar("Job")
Answer = TypeVar("Answer")
MEMORY = 0.9  # weight of earlier batches in the measured rate
HEADROOM = 0.6  # share of a job's time that may be planned: under load the rate falls and HTTP becomes slower
STUCK = 60.0  # seconds on one batch, after which the thread counts as stuck


class Overloaded(GenRankError):
    """There is more work than can be done in time. `retry_after`: seconds until there may be room."""

    def __init__(self, retry_after: float):
        super().__init__("more requests than can be answered in time; try again later")
        self.retry_after = retry_after


class Stopped(GenRankError):
    """The service is shutting down, or its worker thread has ended."""


@dataclass
class _Waiting(Generic[Job, Answer]):
    job: Job
    cost: float
    deadline: float
    future: "Future[Answer]"


class Batcher(Generic[Job, Answer]):
    """`work` is called with at least one job, by one thread; it returns an answer for each, in order."""

    def __init__(
        self,
        work: Callable[[Sequence[Job]], Sequence[Answer]],
        *,
        cost: Callable[[Job], float],
        batch_cost: float,
        wait: float = 0.001,
        clock: Callable[[], float] = time.monotonic,
    ):
        """batch_cost: largest cost of a batch of several jobs. wait: seconds that a batch waits for more jobs."""
        self._work, self._cost, self.batch_cost, self.wait, self._clock = work, cost, batch_cost, wait, clock
        self._queue: deque[_Waiting[Job, Answer]] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._cause = ""  # why the thread has ended, if it failed
        self._batch: list[_Waiting[Job, Answer]] = []  # what is being worked on
        self._begun: float | None = None
        self._pending = 0.0  # cost of what waits or is being worked on
        self.rate: float | None = None  # cost a second
        self._thread = threading.Thread(target=self._run, name="genrank-batcher", daemon=True)
        self._thread.start()

    @property
    def expected_wait(self) -> float:
        """Seconds until a job that came now would be started; 0 before the first measurement."""
        return 0.0 if self.rate is None else self._pending / self.rate

    @property
    def failure(self) -> str:
        """Why no jobs are done any more, or at present; empty if all is well."""
        if self._cause:
            return f"the worker thread has ended: {self._cause}; start the service again"
        begun = self._begun
        if begun is not None and self._clock() - begun > STUCK:
            return f"the worker thread has been computing one batch for {self._clock() - begun:.0f} s"
        return ""

    def submit(self, job: Job, *, within: float) -> "Future[Answer]":
        """The future answer to the job. within: seconds until its deadline. Raises Overloaded and Stopped."""
        cost = self._cost(job)
        future: Future[Answer] = Future()
        with self._changed:
            if self._cause:
                raise Stopped("the service has failed, its log has the reason; ask another instance")
            if self._stopping:
                raise Stopped("the service is shutting down; ask another instance")
            wait = self.expected_wait
            if self._queue and wait + (0.0 if self.rate is None else cost / self.rate) > HEADROOM * within:
                raise Overloaded(max(wait - HEADROOM * within, 0.0) + 0.05)
            self._queue.append(_Waiting(job, cost, self._clock() + within, future))
            self._pending += cost
            self._changed.notify()
        return future

    def stop(self, *, timeout: float = 10.0) -> None:
        """Accept no more jobs, and finish those that wait."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(timeout)

    def _run(self) -> None:
        try:
            while (batch := self._next()) is not None:
                self._begun = self._clock()
                self._work_on(batch, self._begun)
                self._batch, self._begun = [], None
                with self._changed:
                    self._pending -= sum(each.cost for each in batch)
                    if not self._queue:
                        self._pending = 0.0
        except BaseException as problem:  # noqa: BLE001 - otherwise callers would wait for ever, and nothing be logged
            self._end(problem)

    def _end(self, problem: BaseException) -> None:
        log.critical("the worker thread has ended, no job is accepted any more", exc_info=problem)
        with self._changed:
            self._cause = f"{type(problem).__name__}: {problem}"[:200]
            left = [*self._batch, *self._queue]
            self._queue.clear()
            self._pending, self._begun = 0.0, None
        for each in left:
            with suppress(InvalidStateError):
                each.future.set_exception(Stopped("the service has failed; ask another instance"))

    def _work_on(self, batch: Sequence[_Waiting[Job, Answer]], began: float) -> None:
        alive = []
        for each in batch:
            if not each.future.set_running_or_notify_cancel():
                continue
            if each.deadline > began:
                alive.append(each)
            else:
                each.future.set_exception(Overloaded(self.expected_wait))
        if alive:
            self._answer(alive)
            self._measure(sum(each.cost for each in alive), self._clock() - began)

    def _next(self) -> list[_Waiting[Job, Answer]] | None:
        """The jobs of the next batch; None if no more will come."""
        with self._changed:
            while not self._queue:
                if self._stopping:
                    return None
                self._changed.wait()
            until = self._clock() + self.wait
            while not self._stopping and sum(each.cost for each in self._queue) < self.batch_cost:
                left = until - self._clock()
                if left <= 0:
                    break
                self._changed.wait(left)
            batch = self._batch = [self._queue.popleft()]
            cost = batch[0].cost
            while self._queue and cost + self._queue[0].cost <= self.batch_cost:
                batch.append(self._queue.popleft())
                cost += batch[-1].cost
            return batch

    def _answer(self, batch: Sequence[_Waiting[Job, Answer]]) -> None:
        try:
            answers = self._work([each.job for each in batch])
            if len(answers) != len(batch):
                raise RuntimeError(f"{len(answers)} answers to {len(batch)} jobs")
        except Exception as problem:  # noqa: BLE001 - every exception is raised to the caller
            if len(batch) == 1:
                with suppress(InvalidStateError):  # it has been answered already
                    batch[0].future.set_exception(problem)
                return
            for each in batch:  # one bad job must not fail the others
                self._answer([each])
            return
        for each, answer in zip(batch, answers, strict=True):
            with suppress(InvalidStateError):
                each.future.set_result(answer)

    def _measure(self, cost: float, seconds: float) -> None:
        rate = cost / max(seconds, 1e-6)
        self.rate = rate if self.rate is None else MEMORY * self.rate + (1 - MEMORY) * rate
