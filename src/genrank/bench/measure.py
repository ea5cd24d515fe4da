"""Measures how long pieces of work take, and their ratios, on a machine that other programs share.

Everything that is compared runs once per round, in an order that rotates, so that another program slows all pieces
down. A ratio is the median of the ratios in each round, in which this slowdown cancels out.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Work = Callable[[], object]


@dataclass(frozen=True)
class Figure:
    """A median and its quartiles."""

    value: float
    low: float
    high: float

    def times(self, factor: float) -> "Figure":
        """The figure in another unit; `factor` is above 0."""
        return Figure(self.value * factor, self.low * factor, self.high * factor)

    def inverse(self) -> "Figure":
        """1 over the figure."""
        return Figure(1 / self.value, 1 / self.high, 1 / self.low)


def figure(values: Sequence[float]) -> Figure:
    """Median and quartiles of at least one value."""
    if len(values) == 1:
        return Figure(values[0], values[0], values[0])
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return Figure(middle, low, high)


@dataclass(frozen=True)
class Rounds:
    """Seconds of every piece of work in every round."""

    taken: Mapping[str, Sequence[float]]

    def __len__(self) -> int:
        return len(next(iter(self.taken.values())))

    def seconds(self, name: str) -> Figure:
        """Seconds of the piece of work."""
        return figure(self.taken[name])

    def rate(self, name: str, amount: float) -> Figure:
        """`amount` per second, where one run does `amount`."""
        return figure([amount / seconds for seconds in self.taken[name]])

    def ratio(self, above: str, below: str) -> Figure:
        """How many times as long `above` takes as `below`, round by round."""
        return figure([a / b for a, b in zip(self.taken[above], self.taken[below], strict=True)])


def interleave(
    work: Mapping[str, Work],
    *,
    seconds: float,
    min_rounds: int = 3,
    max_rounds: int = 1000,
    settle: Work = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> Rounds:
    """Runs every piece once to warm up, then in rounds until `seconds` are over.

    settle: waits for work that a piece has started but not finished (a GPU's kernels); its time counts for the piece.
    """
    names = list(work)
    for run in work.values():
        run()
        settle()
    taken: dict[str, list[float]] = {name: [] for name in names}
    began = clock()
    for number in range(max_rounds):
        if number >= min_rounds and clock() - began >= seconds:
            break
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            start = clock()
            work[name]()
            settle()
            taken[name].append(clock() - start)
    return Rounds(taken)
