"""Statistics by item-side keys of a log that memory can't hold: events are partitioned by key over files.

A key (an item, an author) has exposures in every bucket of users. So every bucket's exposures are written to files by
partition of their keys (`add`), every partition is counted and its questions are answered (`count`), and every bucket
reads its answers (`columns`, `residuals`).

In memory are one bucket's exposures, or `CHUNK` exposures of a partition and its counts. Those are one for each key and
second, so a key with a large part of the log has at most as many as the log has seconds.

Shapes: N exposures and E keys of a bucket (the same unless exposures have several), T tasks, W windows, V = 3T sums.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrank.data.counting import EventCounts, Ints, Questions, copy_rows, joined_counts
from genrank.data.statistics import Formulas, Halves
from genrank.data.window_statistics import count_known, sums_within, write_answers, write_summed

RECORDS = 2**18  # of a partition on average, as long as there are not too many partitions; ours
MOST_PARTITIONS = 256  # ours
CHUNK = 2**20  # records of a partition in memory; ours
HASH = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: neighbouring keys end up in different partitions


def choose_num_partitions(num_events: int) -> int:
    """For about so many events."""
    return min(max(1, -(-num_events // RECORDS)), MOST_PARTITIONS)


class KeyPartitions:
    """One entity's events, each of which is a question too."""

    def __init__(self, folder: Path, formulas: Formulas, *, num_partitions: int, as_sums: bool):
        """as_sums: answers are sums, which are added up before they become columns."""
        folder.mkdir()
        self.folder, self.formulas, self.num_partitions = folder, formulas, num_partitions
        self.counts: list[Ints] = []  # per bucket, (partitions) records
        num_tasks, num_windows = len(formulas.tasks), len(formulas.windows)
        fields: list[Any] = [(name, np.int64) for name in ("key", "time", "asked")]
        self.record = np.dtype([*fields, ("values", np.int32, 3 * num_tasks)])
        self.residual = np.dtype((np.int32, num_tasks))
        sums = np.dtype((np.int64, (num_windows, 3 * num_tasks)))
        self.answer = sums if as_sums else np.dtype((np.float16, formulas.width))
        self.as_sums = as_sums

    def add(self, keys: Ints, times: Ints, asked: Ints, values: NDArray[np.int32]) -> None:
        """The next bucket's (E) keys, known times and request times, and (E, V) values."""
        order, counts = self._order(keys)
        records = np.empty(len(keys), self.record)
        for name, column in (("key", keys), ("time", times), ("asked", asked), ("values", values)):
            records[name] = column[order]
        for number, part in enumerate(np.split(records, np.cumsum(counts)[:-1])):
            _append(self._path("records", number), part)
        self.counts.append(counts)

    def count(
        self,
        number: int,
        past: list[EventCounts],
        *,
        residuals: bool,
    ) -> list[EventCounts]:
        """Counts partition `number` and answers its questions. residuals: also by the rates of these keys.

        `past`: what was counted of the partition before; what is returned leaves it out.
        """
        counts, whole = list[EventCounts](), self._whole(number)
        for chunk in whole or self._chunks(number):
            counted = count_known(*(np.ascontiguousarray(chunk[name]) for name in ("key", "time", "values")))
            counts = [joined_counts([*counts, counted])]
        for chunk in whole or self._chunks(number):
            self._answer(number, [*counts, *past], chunk, residuals=residuals)
        self._path("records", number).unlink(missing_ok=True)
        return counts

    def columns(self, bucket: int, keys: Ints, offsets: Ints | None, out: Halves) -> None:
        """Writes the (N, columns of the entity) of a bucket whose keys and their offsets are given again."""
        order, _ = self._order(keys)
        number = np.empty_like(order)
        number[order] = np.arange(len(order))
        answers = self._read("answers", bucket, self.answer)
        if offsets is None:
            copy_rows(answers, number, out)
        else:
            write_summed(self.formulas, answers, number, offsets, out)

    def residuals(self, bucket: int, keys: Ints) -> dict[str, Ints]:
        """(N) per task: an exposure's label minus its key's rate, in fixed point; any number where it isn't counted."""
        order, _ = self._order(keys)
        residuals = np.empty((len(order), len(self.formulas.tasks)), np.int64)
        residuals[order] = self._read("residuals", bucket, self.residual)
        return dict(zip(self.formulas.tasks, residuals.T, strict=True))

    def _answer(self, number: int, counts: list[EventCounts], chunk: NDArray[Any], *, residuals: bool) -> None:
        keys, asked = (np.ascontiguousarray(chunk[name]) for name in ("key", "asked"))
        questions, windows = Questions(keys, asked), self.formulas.windows
        if self.as_sums:
            sums = sums_within(counts, questions.keys, questions.times, windows, by_question=True)
            _append(self._path("answers", number), sums[questions.number])
        else:
            answers = np.empty((len(chunk), self.formulas.width), np.float16)
            write_answers(self.formulas, counts, questions, answers)
            _append(self._path("answers", number), answers)
        if residuals:
            rates = self.formulas.rates(sums_within(counts, questions.keys, questions.times, [None])[0])
            positive = chunk["values"][:, 1::3].T == 1
            found = self.formulas.residuals(positive, rates[:, questions.number])
            _append(self._path("residuals", number), found.T.astype(np.int32))

    def _order(self, keys: Ints) -> tuple[Ints, Ints]:
        """(E) the records in order of their partitions, and (partitions) how many each has."""
        mixed = (keys.astype(np.uint64) * HASH) >> np.uint64(32)
        partition = (mixed % np.uint64(self.num_partitions)).astype(np.uint8)
        return np.argsort(partition, kind="stable"), np.bincount(partition, minlength=self.num_partitions)

    def _chunks(self, number: int) -> Iterator[NDArray[Any]]:
        path, size = self._path("records", number), self.record.itemsize
        for begin in range(0, path.stat().st_size // size if path.exists() else 0, CHUNK):
            yield np.fromfile(path, self.record, CHUNK, offset=begin * size)

    def _whole(self, number: int) -> list[NDArray[Any]]:
        """The chunk of a partition that has only one, which then is read once; else none."""
        path = self._path("records", number)
        small = path.exists() and path.stat().st_size <= CHUNK * self.record.itemsize
        return list(self._chunks(number)) if small else []

    def _read(self, what: str, bucket: int, kind: np.dtype[Any]) -> NDArray[Any]:
        """The answers to a bucket's questions, in order of their partitions."""
        begins = sum(self.counts[:bucket], start=np.zeros(self.num_partitions, np.int64))
        rows = np.empty(int(self.counts[bucket].sum()), kind)
        end = 0
        for number, (first, count) in enumerate(zip(begins.tolist(), self.counts[bucket].tolist(), strict=True)):
            begin, end = end, end + count
            if count:
                path = self._path(what, number)
                rows[begin:end] = np.fromfile(path, kind, count, offset=first * kind.itemsize)
        return rows

    def _path(self, what: str, number: int) -> Path:
        return self.folder / f"{what}-{number}"


def _append(path: Path, rows: NDArray[Any]) -> None:
    with path.open("ab") as file:
        rows.tofile(file)
