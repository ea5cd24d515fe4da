"""The relational part of preparation: from a log of any types to rows of small integers in one stored table.

Users and items become their rows of users.parquet and items.parquet; categories become codes, numbered from 1 in order
of their text (0: missing). Codes don't depend on the split; vocabularies are fitted to them later.
"""

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from genrank.data.manifest import DataWarning
from genrank.errors import LogError, SchemaError
from genrank.preparation.category_columns import identity
from genrank.preparation.engine import Column, Engine, Expression
from genrank.preparation.logs import Relations
from genrank.preparation.value_checks import refuse_merged
from genrank.schema import LogSchema, SideTable

MOST = 0.9  # share of the log's ids below which a side table is warned of; ours


@dataclass(frozen=True, kw_only=True)
class Identities:
    """Ids of one owner. `rows`: stored (id, row, first_time), row from 1 in order of id; `keys`: stored (key, row).

    `num_rows` includes row 0, the unknown.
    """

    rows: Expression
    keys: Expression
    num_rows: int
    warnings: tuple[DataWarning, ...]


@dataclass(frozen=True, kw_only=True)
class Staging:
    """The stored log, one integer or float per column, and what its codes mean.

    `categories`: column → its values as text; code c stands for the value at c - 1.
    """

    log: Expression
    num_rows: int
    warnings: tuple[DataWarning, ...]
    users: Identities
    items: Identities
    categories: dict[str, pa.StringArray]

    def bucket(self, number: int, num_buckets: int) -> Expression:
        """One bucket's rows in order of user, time, request, position, item, row."""
        log = self.log.filter(self.log.user % num_buckets == number)
        keys = [name for name in ("user", "time", "request", "position", "item", "row") if name in log.columns]
        return log.order_by(keys)


def stage(engine: Engine, relations: Relations, clean: Expression, schema: LogSchema) -> Staging:
    """Stores the log with ids and categories replaced by numbers."""
    users = _identities(engine, clean, "user", relations.users, schema.tables.user)
    items = _identities(engine, clean, "item", relations.items, schema.tables.item)
    columns: dict[str, Column] = {name: clean[name] for name in clean.columns}
    log = clean
    for name, owner in (("user", users), ("item", items)):
        numbers = owner.keys.view()
        log, columns[name] = log.inner_join(numbers, clean[name] == numbers.key), numbers.row
    categories = {}
    for name in _category_columns(schema):
        codes = _codes(engine, clean[name])
        categories[name] = engine.fetch(codes.order_by("code").select(value=codes.value.cast("string")))["value"]
        log, columns[name] = _with_code(log, clean[name], codes)
    if "request" in columns and not _fits_int64(clean.request):
        requests = _codes(engine, clean.request)
        log, columns["request"] = _with_code(log, clean.request, requests)
    if "request" in columns:
        columns["request"] = _request_key(columns["request"], clean.request, clean.time)
    stored = engine.store(log.select(**columns))
    return Staging(
        log=stored,
        warnings=users.warnings + items.warnings,
        num_rows=engine.row(stored.aggregate(rows=stored.count()))["rows"],
        users=users,
        items=items,
        categories={name: values.combine_chunks() for name, values in categories.items()},
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
    engine: Engine, clean: Expression, name: str, side: Expression | None, table: SideTable | None
) -> Identities:
    key = clean[name]
    seen = clean.group_by(key=key).aggregate(first_time=clean.time.min())
    seen = engine.store(seen.mutate(id=seen.key.cast("string")))
    ids = seen.select("id")
    warnings: list[DataWarning] = []
    if side is not None and table is not None:
        known = with_id(side, table, f"tables.{name}")
        refuse_merged(engine, side, {f"tables.{name}.key": table.key})
        _check_unique(engine, known, table)
        warnings = _check_keys(engine, seen, known, name, table)
        ids = ids.union(known.select(id=known.genrank_id), distinct=True)
    row = engine.ibis.row_number().over(order_by=ids.id) + 1
    numbered = engine.store(ids.select("id", row=row.cast("int32")))
    rows = numbered.left_join(seen, numbered.id == seen.id).select(numbered.id, numbered.row, seen.first_time)
    keys = numbered.inner_join(seen, numbered.id == seen.id).select(seen.key, numbered.row)
    total = engine.row(numbered.aggregate(rows=numbered.count()))["rows"]
    return Identities(rows=engine.store(rows), keys=engine.store(keys), num_rows=total + 1, warnings=tuple(warnings))


def _check_unique(engine: Engine, known: Expression, table: SideTable) -> None:
    repeated = known.group_by("genrank_id").aggregate(count=known.count())
    repeated = engine.fetch(repeated.filter(repeated["count"] > 1).order_by("genrank_id"))
    if repeated.num_rows:
        raise LogError(
            f"{table.path}: expected one row per {table.key}, found {repeated.num_rows} of them several times, such as "
            f"{repeated['genrank_id'][0].as_py()!r}; keep one row of each"
        )


def _check_keys(engine: Engine, seen: Expression, known: Expression, owner: str, table: SideTable) -> list[DataWarning]:
    """Whether the side table is of the log's ids: refused where it has none of them, warned where it lacks many."""
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


def _codes(engine: Engine, column: Column) -> Expression:
    """Stored (value, code) of a column's distinct values, code from 1 in order of the values as text."""
    table = column.as_table().distinct()
    value = table[table.columns[0]]
    distinct = table.filter(value.notnull())
    value = distinct[distinct.columns[0]]
    code = engine.ibis.row_number().over(order_by=value.cast("string")) + 1
    return engine.store(distinct.select(value=value, code=code.cast("int32")))


def _with_code(log: Expression, value: Column, codes: Expression) -> tuple[Expression, Column]:
    """`log` joined with stored codes of `value`, and the code, 0 where the value is null."""
    codes = codes.view()
    return log.left_join(codes, value == codes.value), codes.code.fill_null(0)


def _fits_int64(column: Column) -> bool:
    kind: Any = column.type()
    return bool(kind.is_integer()) and not kind.is_uint64()


def _request_key(number: Column, request: Column, time: Column) -> Column:
    """The request's number; exposures without one belong to the request of their user and second."""
    return request.isnull().ifelse(-2 - time, number.cast("int64"))
