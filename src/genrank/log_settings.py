"""How a log is written, and which of its rows are one request, when they are known, and how many they stand for.

Settings of text files, lists, rows of actions, requests, history and sampling: parts of `LogSchema`.
"""

import codecs
import re
from dataclasses import dataclass, field

NULL_VALUES = ("", "NULL", "null", "\\N", "N/A", "n/a", "NaN", "nan", "None", "<NA>")
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True, kw_only=True)
class CsvSettings:
    """How text files are written. What is not given is found out from the beginning of each file."""

    separator: str | None = None  # one character: "," or ";" or "\t"
    encoding: str | None = (
        None  # as Python names it: utf-8, utf-16, latin-1, cp1252, gb18030; None: utf-8, or by its BOM
    )
    quote: str | None = None  # one character, or "" for none
    decimal: str = "."  # "," where numbers are written as 1.234,5
    columns: tuple[str, ...] = ()  # all column names in their order, where the files have no line of names

    def __post_init__(self) -> None:
        if self.separator is not None and (len(self.separator) != 1 or self.separator in "\r\n"):
            raise ValueError(f"csv.separator is {self.separator!r}; it must be one character, as in ';' or '\\t'")
        if self.quote is not None and (len(self.quote) > 1 or self.quote in ("\r", "\n", self.separator)):
            raise ValueError(f"csv.quote is {self.quote!r}; it must be one character, or empty for none")
        for name in self.columns:
            if not name or self.columns.count(name) > 1:
                raise ValueError(f"csv.columns has the name {name!r}, empty or twice; give every column its own name")
        if self.decimal not in (".", ","):
            raise ValueError(f"csv.decimal is {self.decimal!r}; it must be '.' or ','")
        try:
            codecs.lookup(self.encoding or "utf-8")
        except LookupError:
            raise ValueError(
                f"csv.encoding is {self.encoding!r}, which is not known; write one as in utf-8, latin-1, gb18030"
            ) from None


@dataclass(frozen=True, kw_only=True)
class ListSettings:
    """One row per request, where `columns.item` holds the list of items that were shown, in their order.

    Every item becomes an exposure. A list as long as that of the items has a value for each of them; any other column
    holds for all of the request's exposures.
    """

    acted: tuple[str, ...] = ()  # columns that list the items acted on; as a task's column: 1 for those, 0 for others
    follows: dict[str, str] = field(default_factory=dict)  # column of values → the column of `acted` they belong to
    separator: str | None = None  # where lists are text, as in "i3 i8 i1"
    label: str | None = None  # where items carry a label, as in "i3-0 i8-1": the column that it becomes, for a task
    label_separator: str = "-"  # between item and label; the last one counts

    def __post_init__(self) -> None:
        if not self.label_separator:
            raise ValueError("lists.label_separator is empty; it must be what is between item and label, as in '-'")


@dataclass(frozen=True, kw_only=True)
class Join:
    """Exposures and actions as rows of their own, to be joined into one exposure per item shown.

    An action belongs to the last exposure of its user and item that is at most `within` older. Without `event`, an
    action is a row with a positive label (or, without binary tasks, a duration above 0).
    """

    within: str | None = None  # seconds, minutes, hours or days, as in 30m; None: rows are exposures already
    event: str | None = None  # the column that says what a row is
    exposure: str = ""  # the value of `event` on rows that are exposures; the other values are columns for tasks

    def __post_init__(self) -> None:
        if self.within is not None and not re.fullmatch(r"[1-9]\d*[smhd]", self.within):
            raise ValueError(f"join.within is {self.within!r}; write seconds, minutes, hours or days, as in 30m")
        if bool(self.event) != bool(self.exposure):
            raise ValueError("join: give both event (a column) and exposure (its value on exposures), or neither")
        if self.event and self.within is None:
            raise ValueError("join: within is missing; set how long after its exposure an action may come, as in 30m")

    @property
    def seconds(self) -> int:
        """`within` in seconds; 0 without it."""
        return 0 if self.within is None else int(self.within[:-1]) * SECONDS[self.within[-1]]


@dataclass(frozen=True, kw_only=True)
class RequestSettings:
    """Which exposures of a user are one request."""

    gap_seconds: int = 0  # where the log has no request column: exposures no further apart; 0: of equal time
    max_gap_seconds: int = 1800  # with a request column: exposures of one id further apart are different requests

    def __post_init__(self) -> None:
        for name in ("gap_seconds", "max_gap_seconds"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 or more")


@dataclass(frozen=True, kw_only=True)
class HistoryLists:
    """Lists of the items that a user acted on before the first request in the log, the oldest first.

    They are columns of the log, where those of a user's first request count, or, with `path`, columns of a table with
    one row per user. Every item becomes an exposure that is history only. See preparation/history_lists.py.
    """

    items: str  # the column that lists the items
    times: str | None = None  # the column that lists when, written as columns.time is; None: times are made up
    labels: dict[str, float] = field(default_factory=dict)  # task → what its column holds for every one of the items
    values: dict[str, str] = field(default_factory=dict)  # task, feedback, feature of the exposure → column of lists
    separator: str | None = None  # where lists are text, as in "i3 i8 i1"
    path: str | None = None  # Parquet or text, relative to the schema file
    user: str | None = None  # the table's column of users
    csv: CsvSettings | None = None  # of the table's text file; None: as the log's

    def __post_init__(self) -> None:
        if (self.path is None) != (self.user is None):
            raise ValueError(
                "history.lists: give both path (a table with one row per user) and user (its column of users), or "
                "neither, where the lists are columns of the log"
            )
        for name in self.labels.keys() & self.values.keys():
            raise ValueError(f"history.lists: {name!r} is in labels and in values; leave one of them out")


@dataclass(frozen=True, kw_only=True)
class HistorySettings:
    """When an exposure's actions become known, and the exposure with them: a request sees what was known before it.

    That is the largest of the exposure's time + `settle`, `columns.known_at`, and the times of its tasks' actions.
    """

    settle: str = "0s"  # seconds, minutes, hours or days, as in 10m: how long actions are waited for
    lists: HistoryLists | None = None  # what users did before the log begins

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\d+[smhd]", self.settle):
            raise ValueError(
                f"history.settle: {self.settle!r} is no duration; write seconds, minutes, hours or days as in 10m"
            )

    @property
    def settle_seconds(self) -> int:
        """`settle` in seconds."""
        return int(self.settle[:-1]) * SECONDS[self.settle[-1]]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Exposures that the log left out: negatives of `task`, of which each was kept with a known chance.

    With `negative_rate` a model learns from the kept exposures as they are, and its probabilities of that task are
    corrected wherever they are shown. Rates that differ by exposure (`rate_column`) are weights 1 / rate instead, for
    all tasks, and nothing is corrected. See docs/calibration.md.
    """

    negative_rate: float = 1.0
    rate_column: str | None = None
    task: str = ""  # of `negative_rate`; empty: the first binary task

    def __post_init__(self) -> None:
        if not 0 < self.negative_rate <= 1:
            raise ValueError(f"sampling.negative_rate is {self.negative_rate}; it must be above 0 and at most 1")
        if self.rate_column is not None and self.negative_rate != 1:
            raise ValueError("sampling has negative_rate and rate_column, which would correct twice; give one of them")
        if self.task and self.negative_rate == 1:
            raise ValueError("sampling.task says whose negatives negative_rate is of; give that too, or leave task out")
