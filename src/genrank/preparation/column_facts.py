"""The probable type of a log's column by its values: numbers, flags, times and their unit, lists, text.

Shapes: N rows of the sample.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from genrank.log_settings import NULL_VALUES

Kind = Literal["empty", "truth", "integer", "number", "moment", "text", "list", "vector", "other"]
FIRST, LAST = 788_918_400, 4_102_444_800  # 1995 and 2100: what lies between, in some unit, may be a time
SCALES = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
ISO = (
    r"^\s*\d{4}[-/]\d{2}[-/]\d{2}([ T]\d{2}:\d{2}(:\d{2}(\.\d+)?)?)?\s*(?:Z|z|UTC|[+-]\d\d(:?\d\d)?)?\s*$",
    r"\d\d:\d\d(:\d\d(\.\d+)?)?\s*(Z|z|UTC|[+-]\d\d(:?\d\d)?)\s*$",
)
OTHER_DATE = re.compile(r"^(\d{1,2})([/.-])(\d{1,2})\2\d{4}( \d{2}:\d{2}(:\d{2})?)?$")
NUMBER = r"^\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*$"
COMMA_NUMBER = r"^\s*[+-]?\d+,\d{1,2}\s*$"


@dataclass(frozen=True, kw_only=True)
class ColumnFacts:
    """A column of the sample. codes: (N) number of the value, -1 where it is unknown. numbers: (N), NaN unknown."""

    name: str
    kind: Kind
    codes: NDArray[np.int64]
    values: pa.Array  # the distinct ones, by code
    numbers: NDArray[np.float64] | None = None
    unit: str = ""  # of times: s, ms, us, ns for numbers; auto for timestamps and ISO text
    zoned: bool = True  # of times: whether they say their zone
    format: str = ""  # of times in text that is not ISO
    comma: bool = False  # decimals are written with a comma
    width: int = 0  # vectors: numbers in each

    @property
    def num_known(self) -> int:
        """Rows with a value."""
        return int((self.codes >= 0).sum())

    @property
    def num_distinct(self) -> int:
        """Different values."""
        return len(self.values)

    @cached_property
    def texts(self) -> list[str]:
        """The distinct values as text; of lists none."""
        return [] if self.kind in ("list", "vector", "other") else [str(each) for each in self.values.to_pylist()]

    @property
    def example(self) -> str:
        """A value, short."""
        found = str(self.values[0].as_py()) if len(self.values) else ""
        found = " ".join("".join(each if each.isprintable() else " " for each in found).split())
        return found if len(found) <= 40 else found[:37] + "..."

    def belongs_to(self, owner: "ColumnFacts") -> bool:
        """Whether each user or item has one value only, of those that are there several times."""
        both = (self.codes >= 0) & (owner.codes >= 0)
        codes, owners = self.codes[both], owner.codes[both]
        num_owners = len(np.unique(owners))
        if len(owners) < 1.5 * num_owners or self.num_distinct < 2:
            return False  # seen too rarely to decide
        return len(np.unique(owners * max(self.num_distinct, 1) + codes)) == num_owners


def column_facts(name: str, column: pa.ChunkedArray) -> ColumnFacts:
    """What the column looks like."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_string_view(column.type):
        column = column.cast(pa.string())
    kind = column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _of_lists(name, column)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _of_text(name, column.cast(pa.string()))
    if pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_duration(kind) or pa.types.is_time(kind):
        codes = np.where(column.is_valid().to_numpy(), 0, -1).astype(np.int64)
        return ColumnFacts(name=name, kind="other", codes=codes, values=pa.array([str(kind)]))
    codes, values = _coded(column)
    if not len(values):
        return ColumnFacts(name=name, kind="empty", codes=codes, values=values)
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        zoned = pa.types.is_timestamp(kind) and kind.tz is not None
        return ColumnFacts(name=name, kind="moment", codes=codes, values=values, unit="auto", zoned=zoned)
    if pa.types.is_boolean(kind):
        numbers = _spread(values.cast(pa.int8()).to_numpy(zero_copy_only=False), codes)
        return ColumnFacts(name=name, kind="truth", codes=codes, values=values, numbers=numbers)
    distinct = values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return _of_numbers(name, codes, values, distinct, whole=pa.types.is_integer(kind))


def _of_numbers(
    name: str,
    codes: NDArray[np.int64],
    values: pa.Array,
    distinct: NDArray[np.float64],
    *,
    whole: bool,
    comma: bool = False,
) -> ColumnFacts:
    finite = distinct[np.isfinite(distinct)]
    if not len(finite):
        return ColumnFacts(name=name, kind="empty", codes=np.full(len(codes), -1), values=values[:0])
    whole = whole or bool((finite == np.floor(finite)).all())
    flag = set(finite.tolist()) <= {0.0, 1.0}
    kind: Kind = "truth" if flag else "integer" if whole else "number"
    numbers = _spread(distinct, codes)
    return ColumnFacts(
        name=name, kind=kind, codes=codes, values=values, numbers=numbers, unit=_unit(numbers), comma=comma
    )


def _of_text(name: str, column: pa.ChunkedArray) -> ColumnFacts:
    column = pc.if_else(pc.is_in(pc.utf8_trim_whitespace(column), pa.array(NULL_VALUES)), None, column)
    codes, values = _coded(column)
    if not len(values):
        return ColumnFacts(name=name, kind="empty", codes=codes, values=values)
    if values[0].as_py().strip() and _all(values, NUMBER):
        distinct = pc.utf8_trim_whitespace(values).cast(pa.float64()).to_numpy(zero_copy_only=False)
        return _of_numbers(name, codes, values, distinct, whole=False)
    if _all(values, COMMA_NUMBER):
        plain = pc.replace_substring(pc.utf8_trim_whitespace(values), ",", ".")
        return _of_numbers(name, codes, values, plain.cast(pa.float64()).to_numpy(), whole=False, comma=True)
    lower = [each.strip().lower() for each in values.slice(0, 9).to_pylist()]
    if len(values) <= 8 and set(lower) <= {"true", "false", "t", "f", "0", "1"}:
        flags = np.array([each in ("true", "t", "1") for each in lower], np.float64)
        return ColumnFacts(name=name, kind="truth", codes=codes, values=values, numbers=_spread(flags, codes))
    if _all(values, ISO[0]):
        zoned = _all(values, ISO[1])
        return ColumnFacts(name=name, kind="moment", codes=codes, values=values, unit="auto", zoned=zoned)
    return ColumnFacts(
        name=name,
        kind="text",
        codes=codes,
        values=values,
        format=_format(values.slice(0, 1000).to_pylist()),
        zoned=False,
    )


def _of_lists(name: str, column: pa.ChunkedArray) -> ColumnFacts:
    rows = column.combine_chunks()
    lengths = pc.list_value_length(rows).drop_null().to_numpy(zero_copy_only=False)
    known = rows.is_valid().to_numpy(zero_copy_only=False)
    kind: Kind = "list"
    if (
        pa.types.is_floating(column.type.value_type)
        and len(lengths)
        and (lengths == lengths[0]).all()
        and lengths[0] > 1
    ):
        kind = "vector"
    if pa.types.is_nested(column.type.value_type):
        kind = "other"
    texts = [repr(each) if each is not None else None for each in rows.slice(0, 20_000).to_pylist()]
    codes, values = _coded(pa.chunked_array([pa.array(texts, pa.string())]))
    codes = np.concatenate([codes, np.where(known[len(codes) :], 0, -1)])
    kind = "empty" if not known.any() else kind
    return ColumnFacts(name=name, kind=kind, codes=codes, values=values, width=int(lengths.max(initial=0)))


def _coded(column: pa.ChunkedArray) -> tuple[NDArray[np.int64], pa.Array]:
    coded = column.combine_chunks().dictionary_encode()
    coded = coded.combine_chunks() if isinstance(coded, pa.ChunkedArray) else coded
    return coded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64), coded.dictionary


def _spread(distinct: NDArray[np.float64], codes: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.where(codes >= 0, np.asarray(distinct, np.float64)[np.maximum(codes, 0)], np.nan)


def _all(values: pa.Array, pattern: str) -> bool:
    return bool(pc.all(pc.match_substring_regex(values, pattern)).as_py())


def _unit(numbers: NDArray[np.float64]) -> str:
    """The unit in which most of the numbers are times from 1995 on; empty if there is none."""
    known = numbers[np.isfinite(numbers)]
    for unit, scale in SCALES.items():
        if len(known) and ((known >= FIRST * scale) & (known <= LAST * scale)).mean() > 0.5:
            return unit
    return ""


def _format(values: list[str]) -> str:
    """The pattern of dates such as 31/12/2023 10:00; empty if they are none."""
    found = [OTHER_DATE.match(value.strip()) for value in values]
    matches = [match for match in found if match is not None]
    if len(matches) < len(values):
        return ""
    mark, month_first = matches[0][2], any(int(match[3]) > 12 for match in matches)
    clock = {None: "", 6: " %H:%M", 9: " %H:%M:%S"}[len(matches[0][4]) if matches[0][4] else None]
    return f"%m{mark}%d{mark}%Y{clock}" if month_first else f"%d{mark}%m{mark}%Y{clock}"
