"""The queue: batches, deadlines, refusals, failures."""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future

import pytest

from genrank.server.batcher import Batcher, Overloaded, Stopped


class Gate:
    """Work that waits until it is let through, and remembers its batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.open = threading.Event()
        self.entered = threading.Semaphore(0)

    def __call__(self, jobs: Sequence[int]) -> list[int]:
        self.batches.append(list(jobs))
        self.entered.release()
        assert self.open.wait(10)
        if any(job < 0 for job in jobs):
            raise ValueError("a negative job")
        return [10 * job for job in jobs]


def batcher(gate: Gate, **options: float) -> Batcher[int, int]:
    return Batcher(gate, cost=abs, **({"batch_cost": 10.0, "wait": 0.0} | options))


def held(gate: Gate, queue: Batcher[int, int], jobs: Sequence[int]) -> list["Future[int]"]:
    """The first job is being worked on, the others wait behind it."""
    futures = [queue.submit(1, within=10)]
    assert gate.entered.acquire(timeout=10)
    return futures + [queue.submit(job, within=10) for job in jobs]


def test_what_waits_is_done_in_batches_up_to_their_cost() -> None:
    gate = Gate()
    queue = batcher(gate)
    futures = held(gate, queue, [4, 5, 3, 30, 2])
    gate.open.set()
    assert [future.result(10) for future in futures] == [10, 40, 50, 30, 300, 20]
    assert gate.batches == [[1], [4, 5], [3], [30], [2]]
    queue.stop()


def test_one_bad_job_does_not_take_the_others_with_it() -> None:
    gate = Gate()
    queue = batcher(gate)
    futures = held(gate, queue, [2, -3, 4])
    gate.open.set()
    assert [futures[0].result(10), futures[1].result(10), futures[3].result(10)] == [10, 20, 40]
    with pytest.raises(ValueError, match="a negative job"):
        futures[2].result(10)
    assert queue.submit(5, within=10).result(10) == 50
    queue.stop()


def test_what_cannot_be_done_in_time_is_refused_at_once() -> None:
    gate = Gate()
    queue = batcher(gate)
    futures = held(gate, queue, [5])
    queue.rate = 2.0  # cost a second
    with pytest.raises(Overloaded) as refusal:
        queue.submit(1, within=1.0)
    assert 1.0 < refusal.value.retry_after < 4.0
    futures.append(queue.submit(1, within=8.0))  # 3.5 s of work, and more than that to do it in
    gate.open.set()
    assert [future.result(10) for future in futures] == [10, 50, 10]
    queue.stop()


def test_what_has_waited_past_its_deadline_is_not_worked_on() -> None:
    gate = Gate()
    queue = batcher(gate)
    futures = held(gate, queue, [])
    late = queue.submit(7, within=0.01)
    time.sleep(0.05)
    gate.open.set()
    with pytest.raises(Overloaded):
        late.result(10)
    assert futures[0].result(10) == 10
    assert [7] not in gate.batches
    queue.stop()


def test_an_idle_queue_takes_any_job() -> None:
    gate = Gate()
    gate.open.set()
    queue = batcher(gate)
    queue.rate = 1e-9
    assert queue.submit(3, within=0.5).result(10) == 30
    queue.stop()


def test_stopping_finishes_what_waits_and_takes_no_more() -> None:
    gate = Gate()
    queue = batcher(gate)
    futures = held(gate, queue, [2, 3])
    stopper = threading.Thread(target=queue.stop)
    stopper.start()
    gate.open.set()
    stopper.join(10)
    assert [future.result(0) for future in futures] == [10, 20, 30]
    with pytest.raises(Stopped):
        queue.submit(1, within=1)


def test_a_cancelled_job_is_not_worked_on() -> None:
    gate = Gate()
    queue = batcher(gate)
    futures = held(gate, queue, [2, 3])
    assert futures[1].cancel()
    gate.open.set()
    assert futures[2].result(10) == 30
    queue.stop()
    assert all(2 not in batch for batch in gate.batches)


def test_a_thread_that_ends_takes_no_caller_with_it(caplog: pytest.LogCaptureFixture) -> None:
    gate, entered = threading.Event(), threading.Event()

    def work(jobs: Sequence[int]) -> list[int]:
        entered.set()
        assert gate.wait(10)
        raise SystemExit("no more")

    queue: Batcher[int, int] = Batcher(work, cost=float, batch_cost=1.0, wait=0.0)
    futures = [queue.submit(1, within=10)]
    assert entered.wait(10)
    futures += [queue.submit(job, within=10) for job in (2, 3)]
    assert futures[1].cancel()
    assert queue.failure == ""
    gate.set()
    for future in (futures[0], futures[2]):
        with pytest.raises(Stopped):
            future.result(10)
    assert "SystemExit: no more" in queue.failure
    assert "SystemExit: no more" in caplog.text
    assert queue.expected_wait == 0.0
    with pytest.raises(Stopped):
        queue.submit(1, within=10)
    queue.stop()


def test_what_a_batcher_survives() -> None:
    gate = Gate()
    gate.open.set()
    answers: list[list[int]] = [[], [1, 2], [1]]
    queue: Batcher[int, int] = Batcher(lambda jobs: answers.pop(0), cost=float, batch_cost=1.0, wait=0.0)
    for number in (0, 2):
        with pytest.raises(RuntimeError, match=f"{number} answers to 1 jobs"):
            queue.submit(1, within=10).result(10)
    assert queue.submit(1, within=10).result(10) == 1
    queue.stop()

    gate = Gate()
    queue = batcher(gate)
    futures = held(gate, queue, [])
    futures[0].set_result(7)  # by somebody else
    gate.open.set()
    assert queue.submit(3, within=10).result(10) == 30
    assert queue.failure == ""
    queue.stop()


def test_work_that_does_not_end_is_a_failure_for_as_long_as_it_lasts() -> None:
    now = [0.0]
    gate = Gate()
    queue: Batcher[int, int] = Batcher(gate, cost=abs, batch_cost=10.0, wait=0.0, clock=lambda: now[0])
    held(gate, queue, [])
    assert queue.failure == ""
    now[0] = 61.0
    assert "for 61 s" in queue.failure
    gate.open.set()
    queue.stop()
    assert queue.failure == ""
