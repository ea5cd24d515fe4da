"""Functions of single values that every engine defines alike: texts, numbers and times. Nothing is run here.

Each is written once, as a macro of DuckDB. Another engine runs it on Arrow batches (`on_batch`), or has an equivalent
in its SQL.
"""

import functools
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from genrank.preparation.engine import Column, import_ibis

EPOCH = "CAST(epoch(CAST(date_trunc('second', {}) AS TIMESTAMP)) AS BIGINT)"
FLOAT_TEXT = """CASE WHEN (x - x) = 0 THEN CASE WHEN CAST(TRY_CAST(x AS BIGINT) AS DOUBLE) = x
    THEN CAST(TRY_CAST(x AS BIGINT) AS VARCHAR) ELSE CAST(x AS VARCHAR) END END"""
# Through 32 bits and back where that is the number that was meant, see `intended` in data/categories.py.
INTENDED = """CASE WHEN CAST(TRY_CAST(x AS FLOAT) AS DOUBLE) = CAST(x AS DOUBLE)
    AND CAST(TRY_CAST(x AS BIGINT) AS DOUBLE) != CAST(x AS DOUBLE)
    THEN CAST(CAST(TRY_CAST(x AS FLOAT) AS VARCHAR) AS DOUBLE) ELSE CAST(x AS DOUBLE) END"""
PLAIN_OFFSET = (
    r"regexp_replace(regexp_replace(x, '\s+([+-]\d\d(:?\d\d)?)$', '\1', 'g'), '([+-]\d\d)(\d\d)$', '\1:\2', 'g')"
)
LISTED = r"""list_filter(list_transform(str_split(regexp_replace(x, '^\s*\[|\]\s*$', '', 'g'), separator),
    lambda part: regexp_replace(part, '^[\s''"]+|[\s''"]+$', '', 'g')), lambda part: part != '')"""


@dataclass(frozen=True, kw_only=True)
class ValueFunction:
    """A function of a column `x` and constants. `body`: DuckDB's SQL; `result`: Ibis's name of the type."""

    name: str
    body: str
    result: str
    constants: tuple[str, ...] = ()

    @property
    def sql_name(self) -> str:
        """The name that engines define it by."""
        return f"genrank_{self.name}"

    @property
    def macro(self) -> str:
        """The statement that defines it in DuckDB."""
        return f"CREATE MACRO {self.sql_name}({', '.join(('x', *self.constants))}) AS {self.body}"


FUNCTIONS = {
    function.name: function
    for function in (
        ValueFunction(name="moment_text", body="CAST(x AS VARCHAR)", result="string"),
        ValueFunction(name="zoned_text", body="CAST(x AS VARCHAR)", result="string"),
        ValueFunction(name="text", body="CAST(x AS VARCHAR)", result="string"),
        ValueFunction(name="float_text", body=FLOAT_TEXT, result="string"),
        ValueFunction(name="bytes_text", body="decode(x)", result="string"),
        ValueFunction(name="texts", body="CAST(x AS VARCHAR[])", result="array<string>"),
        ValueFunction(
            name="float_texts",
            body="list_transform(x, lambda value: genrank_float_text(value))",
            result="array<string>",
        ),
        ValueFunction(
            name="bytes_texts", body="list_transform(x, lambda value: decode(value))", result="array<string>"
        ),
        ValueFunction(name="number", body="TRY_CAST(x AS DOUBLE)", result="float64"),
        ValueFunction(name="whole", body="TRY_CAST(x AS BIGINT)", result="int64"),
        ValueFunction(name="int32", body="TRY_CAST(x AS INTEGER)", result="int32"),
        ValueFunction(name="float32", body="TRY_CAST(x AS FLOAT)", result="float32"),
        ValueFunction(name="intended", body=INTENDED, result="float64"),
        ValueFunction(
            name="floor_division",
            body="CASE WHEN x % divisor < 0 THEN divide(x, divisor) - 1 ELSE divide(x, divisor) END",
            result="int64",
            constants=("divisor",),
        ),
        ValueFunction(name="matches", body="regexp_matches(x, pattern)", result="boolean", constants=("pattern",)),
        ValueFunction(name="split", body="str_split(x, separator)", result="array<string>", constants=("separator",)),
        ValueFunction(name="listed", body=LISTED, result="array<string>", constants=("separator",)),
        ValueFunction(name="text_key", body="CAST(md5_number_lower(x) >> 1 AS BIGINT)", result="int64"),
        ValueFunction(name="sampled", body="hash(x) % every = 0", result="boolean", constants=("every",)),
        ValueFunction(
            name="microseconds", body="make_timestamp(genrank_floor_division(epoch_ns(x), 1000))", result="timestamp"
        ),
        ValueFunction(
            name="epoch_in_zone", body=EPOCH.format("timezone(zone, x)"), result="int64", constants=("zone",)
        ),
        ValueFunction(name="epoch_of_text", body=EPOCH.format("TRY_CAST(x AS TIMESTAMP)"), result="int64"),
        ValueFunction(
            name="epoch_of_text_in_zone",
            body=EPOCH.format("timezone(zone, TRY_CAST(x AS TIMESTAMP))"),
            result="int64",
            constants=("zone",),
        ),
        ValueFunction(
            name="epoch_of_zoned_text", body=EPOCH.format(f"TRY_CAST({PLAIN_OFFSET} AS TIMESTAMPTZ)"), result="int64"
        ),
        ValueFunction(
            name="epoch_by_pattern",
            body=EPOCH.format("try_strptime(x, pattern)"),
            result="int64",
            constants=("pattern",),
        ),
        ValueFunction(
            name="epoch_by_pattern_in_zone",
            body=EPOCH.format("timezone(zone, try_strptime(x, pattern))"),
            result="int64",
            constants=("pattern", "zone"),
        ),
    )
}


def number_of(text: Column) -> Column:
    """Text as float64; null where it is no number."""
    return _call("number", text)


def whole_of(text: Column) -> Column:
    """Text as int64; null where it is no number, rounded where it has a fraction."""
    return _call("whole", text)


def int32_of(number: Column) -> Column:
    """A number as int32, rounded; null where it doesn't fit."""
    return _call("int32", number)


def float32_of(number: Column) -> Column:
    """A number as float32; null where it doesn't fit."""
    return _call("float32", number)


def intended(number: Column) -> Column:
    """Floats as float64, as `intended` of data/categories.py has them."""
    return _call("intended", number)


def float_text(number: Column) -> Column:
    """Floats as the text of `category`; null for NaN and infinities."""
    return _call("float_text", number)


def text_of(column: Column) -> Column:
    """Values of any single kind as DuckDB writes them."""
    kind = column.type()
    if kind.is_integer() or kind.is_string() or kind.is_boolean() or kind.is_date():
        return column.cast("string")
    if kind.is_timestamp():
        return _call("zoned_text" if kind.timezone else "moment_text", column)
    return _call("text", column)


def text_of_bytes(data: Column) -> Column:
    """Bytes as the text that they are in UTF-8; the engine fails on others."""
    return _call("bytes_text", data)


def texts_of(column: Column) -> Column:
    """Lists of values as lists of their texts, as DuckDB writes them."""
    kind = column.type().value_type
    return column.cast("array<string>") if kind.is_integer() or kind.is_string() else _call("texts", column)


def float_texts(column: Column) -> Column:
    """Lists of floats as lists of the texts of `category`."""
    return _call("float_texts", column)


def bytes_texts(column: Column) -> Column:
    """Lists of bytes as lists of the text that they are in UTF-8."""
    return _call("bytes_texts", column)


def matches(text: Column, pattern: str) -> Column:
    """Whether a regular expression of RE2 is found in text."""
    return _call("matches", text, pattern)


def split(text: Column, separator: str) -> Column:
    """Text in parts, without the separators; empty parts stay."""
    return _call("split", text, separator)


def listed(text: Column, separator: str) -> Column:
    """A list's parts from its text, brackets around it and spaces and quotes around the parts left out."""
    return _call("listed", text, separator)


def sampled(column: Column, every: int) -> Column:
    """Whether a value is of one of `every` equal shares of all values."""
    return _call("sampled", column, every)


def text_key(text: Column) -> Column:
    """63 bits of the text's MD5, by which texts are told apart without numbering them."""
    return _call("text_key", text)


def floor_division(number: Column, divisor: int) -> Column:
    """Whole numbers divided and rounded down, without the floats that an engine's own division goes through."""
    return _call("floor_division", number, divisor)


def microseconds(moment: Column) -> Column:
    """A timestamp of nanoseconds as one of microseconds, rounded down, which a cast doesn't."""
    return _call("microseconds", moment)


def epoch_in_zone(local: Column, zone: str) -> Column:
    """Timestamps by the clocks of `zone` in seconds since the epoch, rounded down."""
    return _call("epoch_in_zone", local, zone)


def epoch_of_text(text: Column, zone: str | None) -> Column:
    """ISO text by the clocks of `zone` (None: UTC) in seconds since the epoch; null where it can't be read."""
    return _call("epoch_of_text", text) if zone is None else _call("epoch_of_text_in_zone", text, zone)


def epoch_of_zoned_text(text: Column) -> Column:
    """ISO text that names its zone, as in 2023-11-15T11:15:00+08:00, in seconds; null where it can't be read."""
    return _call("epoch_of_zoned_text", text)


def epoch_by_pattern(text: Column, pattern: str, zone: str | None) -> Column:
    """Text of one pattern, as in %d.%m.%Y, by the clocks of `zone` in seconds; null where it doesn't fit."""
    if zone is None:
        return _call("epoch_by_pattern", text, pattern)
    return _call("epoch_by_pattern_in_zone", text, pattern, zone)


def _call(name: str, column: Column, *constants: str | int) -> Column:
    function, ibis = FUNCTIONS[name], import_ibis()
    kinds = (column.type(), *(ibis.literal(constant).type() for constant in constants))
    return _builtin(name, kinds, function.result)(column, *constants)


@functools.cache
def _builtin(name: str, kinds: tuple[Any, ...], result: str) -> Any:
    """Ibis's function of that name: it takes the number of arguments from a Python function's."""

    def one(x: Any) -> Any: ...

    def two(x: Any, first: Any) -> Any: ...

    def three(x: Any, first: Any, second: Any) -> Any: ...

    declared: Any = (one, two, three)[len(kinds) - 1]
    builtin = import_ibis().udf.scalar.builtin
    return builtin(declared, name=FUNCTIONS[name].sql_name, signature=(kinds, result))


def on_batch(name: str, column: pa.Array, constants: tuple[str | int, ...]) -> pa.Array:
    """The function of an Arrow array, computed by a DuckDB of this process."""
    arguments = ", ".join(["x", *(f"${number + 1}" for number in range(len(constants)))])
    database = _database()
    database.register("batch", pa.table({"x": column}))
    query = f"SELECT {FUNCTIONS[name].sql_name}({arguments}) AS result FROM batch"
    return database.sql(query, params=list(constants)).to_arrow_table()["result"].combine_chunks()


@functools.cache
def _database() -> Any:
    import duckdb

    database = duckdb.connect(":memory:", config={"threads": 1})
    for function in FUNCTIONS.values():
        database.execute(function.macro)
    return database
