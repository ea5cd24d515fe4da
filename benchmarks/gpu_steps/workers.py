"""Work for a card that is mostly compiling: spread over processes, of which any may die.

A kernel that writes where it must not leaves its process unable to use the card. So a case that fails takes its
process with it, and the next case gets a fresh one. What is compiled lies in Triton's cache on disk, for all of them.
"""

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from gpu_steps.report import last_lines

Case = TypeVar("Case")


@dataclass(frozen=True)
class Outcome:
    """What came of a case: a value, or the last lines of a traceback."""

    case: Any
    value: Any = None
    error: list[str] = field(default_factory=list)


def spread(
    function: Callable[[Case], Any], cases: Sequence[Case], *, workers: int, seconds: Callable[[], float]
) -> Iterator[Outcome]:
    """The outcomes as they come; no case begins, and none is waited for, when `seconds()` has fallen to 0.

    workers: processes; 0: all in this one. `function` can be imported by name, cases and values can be pickled.
    """
    waiting = deque(cases)
    if not workers:
        while waiting and seconds() > 0:
            yield _outcome(function, waiting.popleft())
        return
    idle: list[tuple[Connection, Any]] = []
    busy: dict[Connection, tuple[Any, Case]] = {}
    try:
        while (waiting or busy) and seconds() > 0:
            while waiting and len(busy) < workers:
                pipe, process = idle.pop() if idle else _start(function)
                case = waiting.popleft()
                pipe.send(case)
                busy[pipe] = process, case
            for pipe in wait(list(busy), timeout=max(min(seconds(), 1.0), 0.01)):
                assert isinstance(pipe, Connection)
                process, case = busy.pop(pipe)
                try:
                    outcome: Outcome = replace(pipe.recv(), case=case)  # the very one, not a copy
                except (EOFError, OSError):
                    process.join(5)
                    outcome = Outcome(case, error=[f"its process ended with status {process.exitcode}"])
                if outcome.error:
                    pipe.close()
                    process.kill()
                else:
                    idle.append((pipe, process))
                yield outcome
    finally:
        for pipe, process in [*idle, *((pipe, process) for pipe, (process, _) in busy.items())]:
            pipe.close()
            process.kill()
            process.join(5)


def _start(function: Callable[[Case], Any]) -> tuple[Connection, Any]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, function), daemon=False)
    process.start()
    theirs.close()
    return ours, process


def _serve(pipe: Connection, function: Callable[[Case], Any]) -> None:
    import torch

    torch.set_num_threads(1)  # there are many of these processes
    while True:
        try:
            case = pipe.recv()
        except EOFError:
            return
        pipe.send(_outcome(function, case))


def _outcome(function: Callable[[Case], Any], case: Case) -> Outcome:
    try:
        return Outcome(case, function(case))
    except Exception as error:  # noqa: BLE001 - whatever a compiler or a driver raises
        return Outcome(case, error=last_lines(error))
