"""The relational part of preparation: from a log of any types to rows of small integers.

Users and items become their rows of users.parquet and items.parquet, categories codes from 1 (0: missing). Both are
numbered in order of first sight, by (day of UTC, text), after those already known; the rows of a side table come first.
So additions change no existing number.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from genrank.data.manifest import DataWarning
from genrank.errors import LogError, SchemaError
from genrank.preparation.category_columns import identity
from genrank.preparation.engine import Column, Engine, Expression
from genrank.preparation.logs import Relations
from genrank.preparation.value_checks import refuse_merged
from genrank.preparation.value_functions import floor_division, text_key
from genrank.schema import LogSchema, Owner, SideTable

DAY = 86_400  # seconds
BEFORE_ALL = -1  # the day of side tables' rows: they are numbered before what the log shows
MOST = 0.9  # share of the log's ids in a side table below which there is a warning; ours


@dataclass(frozen=True, kw_only=True)
class Identities:
    """Ids of one owner. `rows`: stored (id, row, first_time), row from 1; `keys`: stored (key, row).

    `num_rows` includes row 0, the unknown; the first `num_known` were known before.
    """

    rows: Expression
    keys: Expression
    num_rows: int
    num_known: int
    warnings: tuple[DataWarning, ...]


@dataclass(frozen=True, kw_only=True)
class KnownValues:
    """The values that a prepared folder has already numbered, as text in order of row from 1, or of code. `categories`:
    by column; they don't include lists."""

    ids: Mapping[Owner, pa.Array]
    categories: Mapping[str, pa.Array]


@dataclass(frozen=True, kw_only=True)
class Staging:
    """The log, one integer or float per column and the place `row` in the log, and what its codes mean.

    `log`: not computed yet, of `num_rows` rows. `categories`: column → its values as text; code c stands for the value
    at c - 1.
    """

    log: Expression
    num_rows: int
    warnings: tuple[DataWarning, ...]
    users: Identities
    items: Identities
    categories: dict[str, pa.StringArray]


def stage(
    engine: Engine,
    relations: Relations,
    clean: Expression,
    schema: LogSchema,
    num_rows: int,
    known: KnownValues | None = None,
) -> Staging:
    """The `num_rows` rows of the log with ids and categories replaced by numbers, which continue those of `known`."""
    ids: Mapping[Owner, pa.Array] = known.ids if known is not None else {}
    old = known.categories if known is not None else {}
    users = _identities(engine, clean, "user", relations.users, schema.tables.user, ids.get("user"))
    items = _identities(engine, clean, "item", relations.items, schema.tables.item, ids.get("item"))
    columns: dict[str, Column] = {name: clean[name] for name in clean.columns}
    log = clean
    for name, owner in (("user", users), ("item", items)):
        numbers = owner.keys.view()
        log, columns[name] = log.inner_join(numbers, clean[name] == numbers.key), numbers.row
    categories = {}
    for name in _category_columns(schema):
        codes = _codes(engine, clean, name, old.get(name))
        categories[name] = _in_order_of_code(engine, codes, old.get(name))
        log, columns[name] = _with_code(log, clean[name], codes)
    if "request" in columns:
        columns["request"] = _request_key(clean.request, clean.time)
    return Staging(
        log=log.select(**columns),
        warnings=users.warnings + items.warnings,
        num_rows=num_rows,
        users=users,
        items=items,
        categories=categories,
    )


def with_id(side: Expression, table: SideTable, role: str) -> Expression:
    """The side table with its key as text in `genrank_id`. Raises SchemaError if there is no such key."""
    if table.key not in side.columns:
        raise SchemaError(f"{role}.key: there is no column {table.key!r} in {table.path}; {_columns(side)}")
    keyed = side.mutate(genrank_id=identity(side[table.key], f"{role}.key").cast("string"))
    return keyed.filter(keyed.genrank_id.notnull())


def _columns(side: Expression) -> str:
    return "there is: " + ", ".join(side.columns)


def _identities(
    engine: Engine,
    clean: Expression,
    name: Owner,
    side: Expression | None,
    table: SideTable | None,
    known: pa.Array | None,
) -> Identities:
    key = clean[name]
    seen = clean.group_by(key=key).aggregate(first_time=clean.time.min())
    seen = engine.store(seen.mutate(id=seen.key.cast("string")))
    ids = seen.select("id", day=floor_division(seen.first_time, DAY))
    warnings: list[DataWarning] = []
    if side is not None and table is not None:
        listed = with_id(side, table, f"tables.{name}")
        refuse_merged(engine, side, {f"tables.{name}.key": table.key})
        _check_unique(engine, listed, table)
        warnings = _check_keys(engine, seen, listed, name, table)
        unlisted = ids.anti_join(listed, ids.id == listed.genrank_id)
        ids = listed.select(id=listed.genrank_id, day=engine.ibis.literal(BEFORE_ALL, "int64")).union(unlisted)
    num_known = 0 if known is None else len(known)
    old = None if known is None else engine.from_arrow(_numbered(known, "id", "row"))
    if old is not None:
        ids = ids.anti_join(old, ids.id == old.id)
    numbered = engine.numbered(ids, ("day", "id"), name="row", first=1 + num_known).select("id", "row")
    if old is not None:
        numbered = engine.store(old.union(numbered))
    rows = numbered.left_join(seen, numbered.id == seen.id).select(numbered.id, numbered.row, seen.first_time)
    keys = numbered.inner_join(seen, numbered.id == seen.id).select(seen.key, numbered.row)
    total = engine.row(numbered.aggregate(rows=numbered.count()))["rows"]
    return Identities(
        rows=engine.store(rows),
        keys=engine.store(keys),
        num_rows=total + 1,
        num_known=num_known,
        warnings=tuple(warnings),
    )


def _numbered(values: pa.Array, name: str, number: str) -> pa.Table:
    """Texts with numbers from 1."""
    numbers = pa.array(np.arange(1, len(values) + 1, dtype=np.int32))
    return pa.table({name: values.cast(pa.string()), number: numbers})


def _check_unique(engine: Engine, known: Expression, table: SideTable) -> None:
    repeated = known.group_by("genrank_id").aggregate(count=known.count())
    repeated = engine.fetch(repeated.filter(repeated["count"] > 1).order_by("genrank_id"))
    if repeated.num_rows:
        raise LogError(
            f"{table.path}: expected one row per {table.key}, found {repeated.num_rows} of them several times, such as "
            f"{repeated['genrank_id'][0].as_py()!r}; keep one row of each"
        )


def _check_keys(engine: Engine, seen: Expression, known: Expression, owner: str, table: SideTable) -> list[DataWarning]:
    """Checks the side table for the log's ids: an error if it has none of them, a warning if many are missing."""
    strangers = seen.anti_join(known, seen.id == known.genrank_id)
    counts = engine.row(seen.aggregate(all=seen.count())) | engine.row(strangers.aggregate(lacking=strangers.count()))
    total, found = counts["all"], counts["all"] - counts["lacking"]
    if total == 0 or found >= MOST * total:
        return []
    unused = known.anti_join(seen, known.genrank_id == seen.id)
    examples = [
        repr(engine.row(ids.aggregate(first=ids.id.min()))["first"])
        for ids in (strangers.select("id"), unused.select(id=unused.genrank_id))
    ]
    message = (
        f"tables.{owner}: {table.path} knows {found:,} of the log's {total:,} {owner}s by {table.key!r}; "
        f"only in the log, for instance: {examples[0]}, only in the table: {examples[1]}"
    )
    if found == 0:
        raise LogError(f"{message}; write the keys as in the log, or name another key or table")
    return [DataWarning(kind="keys", message=message)]


def _category_columns(schema: LogSchema) -> list[str]:
    features = [f.name for f in schema.features if f.owner == "exposure" and f.kind == "categorical"]
    return [f"feedback_{part.name}" for part in schema.feedback] + [f"feature_{name}" for name in features]


def _codes(engine: Engine, clean: Expression, name: str, known: pa.Array | None) -> Expression:
    """Stored (value, code) of a column's distinct values: codes of those that are known, and new ones behind them."""
    pairs = clean.select(value=clean[name], time=clean.time)
    pairs = pairs.filter(pairs.value.notnull())
    seen = pairs.group_by("value").aggregate(first=pairs.time.min())
    seen = seen.select("value", text=seen.value.cast("string"), day=floor_division(seen["first"], DAY))
    if known is None:
        return engine.numbered(seen, ("day", "text"), name="code", first=1).select("value", "code")
    seen = engine.store(seen)
    old = engine.from_arrow(_numbered(known, "text", "code"))
    new = seen.anti_join(old, seen.text == old.text)
    new = engine.numbered(new, ("day", "text"), name="code", first=1 + len(known)).select("value", "code")
    return engine.store(seen.inner_join(old, seen.text == old.text).select("value", "code").union(new))


def _in_order_of_code(engine: Engine, codes: Expression, known: pa.Array | None) -> pa.Array:
    """All values as text: those that are known, then the new ones."""
    first = 0 if known is None else len(known)
    new = codes.filter(codes.code > first).order_by("code")
    values = engine.fetch(new.select(value=new.value.cast("string")))["value"].combine_chunks().cast(pa.string())
    return values if known is None else pa.concat_arrays([known.cast(pa.string()), values])


def _with_code(log: Expression, value: Column, codes: Expression) -> tuple[Expression, Column]:
    """`log` joined with stored codes of `value`, and the code, 0 where the value is null."""
    codes = codes.view()
    return log.left_join(codes, value == codes.value), codes.code.fill_null(0)


def _fits_int64(column: Column) -> bool:
    kind: Any = column.type()
    return bool(kind.is_integer()) and not kind.is_uint64()


def _request_key(request: Column, time: Column) -> Column:
    """A number that equals that of another exposure's request where both are equal, whatever else a log holds.

    Exposures without a request belong to that of their user and second.
    """
    key = request.cast("int64") if _fits_int64(request) else text_key(request.cast("string"))
    return request.isnull().ifelse(-2 - time, key)
