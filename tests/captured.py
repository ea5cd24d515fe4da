"""What stands for CUDA's capture where there is no CUDA: the function is run again on the memory that it reads."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from genrank.inference.cuda_graphs import Logits, Replay


class Graphs:
    """Captures by remembering the function; `replays` counts its runs afterwards."""

    def __init__(self, around: Callable[[], AbstractContextManager[Any]] = nullcontext):
        self.around, self.captures, self.replays, self.running = around, 0, 0, 0

    def __call__(self, function: Callable[[], Logits]) -> Replay:
        self.captures += 1
        static = function()

        def replay() -> Logits:
            self.replays += 1
            self.running += 1
            assert self.running == 1
            with self.around():
                for task, logits in function().items():
                    static[task].copy_(logits)
            self.running -= 1
            return static

        return replay
