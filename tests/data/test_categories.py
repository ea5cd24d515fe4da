"""A value of any type is served as it was prepared: as a category of every owner, in lists, as feedback, as an id."""

import json
from contextlib import closing
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amounts import examples
from exposure_logs import START, Prepared, log, prepare_log
from genrank.batch import Jagged
from genrank.data.categories import Categories, category, id_text, intended
from genrank.data.request import FeatureEncoder
from genrank.data.tables import FeatureTable
from genrank.inference.catalogue import Catalogue
from genrank.inference.histories import Histories
from genrank.inference.pasts import NoPast
from genrank.inference.sqlite_store import SQLiteStore
from genrank.preparation.category_columns import identity, intended_numbers
from genrank.preparation.duckdb_engine import DuckDBEngine as Engine
from genrank.schema import NULL_VALUES, Feature, Feedback, Owner
from genrank.server.wire import EventsBody, ItemsBody, RankBody

MOMENTS = st.datetimes(min_value=datetime(1971, 1, 1), max_value=datetime(2199, 1, 1))
TYPES: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "bool": (pa.bool_(), st.booleans()),
    "int64": (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "uint64": (pa.uint64(), st.integers(0, 2**63 - 1)),
    "float64": (pa.float64(), st.floats() | st.sampled_from([1.0, -0.0, 0.5, 1e21, 1e16, 2.0**63, -(2.0**63), 5e-324])),
    "tenths": (pa.float64(), st.integers(-100, 100).map(lambda number: number / 10)),
    "float32": (pa.float32(), st.floats(width=32) | st.integers(-99, 99).map(lambda n: float(np.float32(n / 10)))),
    "decimal": (pa.decimal128(12, 2), st.decimals(-(10**9), 10**9, places=2)),
    "text": (pa.string(), st.text("aé1.0true -", min_size=1) | st.sampled_from(["1", "1.0", "True", "007", "NaN"])),
    "date": (pa.date32(), st.dates(date(1971, 1, 1), date(2199, 1, 1))),
    "moment": (pa.timestamp("us"), MOMENTS),
    "moment of a zone": (pa.timestamp("us", "Asia/Tokyo"), MOMENTS.map(lambda moment: moment.replace(tzinfo=UTC))),
    "time": (pa.time64("us"), st.times()),
}
IN_JSON = ("bool", "int64", "uint64", "float64", "tenths", "float32", "text")
columns_of = st.fixed_dictionaries(
    {name: st.lists(st.none() | values, min_size=5, max_size=5) for name, (_, values) in TYPES.items()}
)


def read(table: pa.Table, expression: Any) -> dict[str, list[Any]]:
    with TemporaryDirectory() as folder, closing(Engine(Path(folder) / "spill", threads=1)) as engine:
        pq.write_table(table, Path(folder) / "values.parquet")
        rows = engine.parquet([Path(folder) / "values.parquet"])
        made = {name: expression(rows[name]) for name in rows.columns}
        return engine.fetch(rows.select(**made)).to_pydict()


@examples(50, 8)
@given(columns_of)
def test_a_column_has_the_texts_by_which_its_values_are_found(columns: dict[str, list[Any]]) -> None:
    table = pa.table({name: pa.array(values, TYPES[name][0]) for name, values in columns.items()})
    for name, texts in read(table, lambda column: identity(column).cast("string")).items():
        values = table[name].to_pylist()
        known = Categories((text, index + 1) for index, text in enumerate(dict.fromkeys(filter(None, texts))))
        for value, text in zip(values, texts, strict=True):
            assert known.index(value) == known.get(text, 0), (name, value, text)
        if name in IN_JSON:
            assert [known.index(v) for v in json.loads(json.dumps(values))] == [known.get(text, 0) for text in texts]


@examples(50, 8)
@given(st.lists(st.floats(width=32) | st.integers(-99, 99).map(lambda n: float(np.float32(n / 10))), min_size=1))
def test_numbers_that_came_through_32_bits_are_those_that_were_meant(values: list[float]) -> None:
    table = pa.table({"single": pa.array(values, pa.float32()), "double": values})
    found = read(table, intended_numbers)
    np.testing.assert_array_equal(found["single"], found["double"])
    close = [intended(value) for value in values]
    np.testing.assert_allclose(found["double"], close, rtol=1e-7)  # the engine's shortest text may be a digit longer
    assert [intended(value) for value in found["double"]] == pytest.approx(close, rel=1e-12, nan_ok=True)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"),
        (np.bool_(False), "false"),
        (1, "1"),
        (1.0, "1"),
        (Decimal("1.00"), "1"),
        (-0.0, "0"),
        (0.1, "0.1"),
        (np.float32(0.1), "0.1"),
        (float(np.float32(0.1)), "0.1"),
        (Decimal("0.10"), "0.1"),
        (1e21, "1e+21"),
        (2**63 - 1, "9223372036854775807"),
        (123456792.0, "123456792"),
        (float("nan"), None),
        (float("inf"), None),
        (Decimal("NaN"), None),
        (None, None),
        ("1.0", "1.0"),
        ("", ""),
        (date(2024, 1, 2), "2024-01-02"),
        (datetime(2024, 1, 2, 3, 4, 5), "2024-01-02 03:04:05"),
        (datetime(2024, 1, 2, 3, 4, 5, 500_000, UTC), "2024-01-02 03:04:05.5+00"),
        (time(3, 4, 5, 500_000), "03:04:05.5"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        ("é".encode(), "é"),
    ],
)
def test_equal_numbers_have_one_text_and_text_stays(value: Any, text: str | None) -> None:
    assert category(value) == text


@pytest.mark.parametrize("value", [[1], {"a": 1}, (1,), {1}, object(), 10**50])
def test_what_is_no_single_value_is_no_category(value: Any) -> None:
    with pytest.raises(ValueError, match="expected text, a number, true, false or null, found"):
        category(value)


@pytest.mark.parametrize(("value", "text"), [("a", "a"), (12, "12"), (12.0, "12"), (np.int64(12), "12"), (1.5, "1.5")])
def test_ids_of_any_type_have_the_text_of_the_logs(value: Any, text: str) -> None:
    assert id_text(value) == text


@pytest.mark.parametrize("value", [None, True, [1], {"a": 1}, 2.0**53, float("nan"), float("inf")])
def test_what_may_be_several_ids_or_none_is_no_id(value: Any) -> None:
    with pytest.raises(ValueError, match="expected"):
        id_text(value)


@pytest.mark.parametrize(
    ("texts", "found"),
    [
        (["1.0", "2.0"], [(1, 1), (2.0, 2), ("1.0", 1), ("1", 0), (True, 0)]),
        (["True", "False"], [(True, 1), (False, 2), ("True", 1), ("true", 0)]),
        (["1", "1.0"], [("1", 1), ("1.0", 2), (1.0, 1), (3, 0)]),
        (["0.10000000149011612"], [(0.10000000149011612, 1), ("0.1", 0)]),  # of a folder that was prepared before
        (["1.50"], [(1.5, 1), (Decimal("1.50"), 1), ("1.50", 1), ("1.5", 0)]),  # the same
        (["1", "0"], [(True, 1), (False, 2), (1.0, 1), ("true", 0)]),
        (["true", "false"], [(1, 1), (0.0, 2), (2, 0), ("1", 0)]),
        (["1", "0", "2"], [(2, 3), (True, 0)]),
        (["007"], [("007", 1), (7, 0), (7.0, 0)]),
        ([], [(1, 0), ("a", 0), (None, 0), (True, 0)]),
    ],
)
def test_numbers_are_found_as_logs_may_have_written_them_and_text_as_it_stands(
    texts: list[str], found: list[tuple[Any, int]]
) -> None:
    known = Categories((text, index + 1) for index, text in enumerate(texts))
    assert [(value, known.index(value)) for value, _ in found] == found


@pytest.mark.parametrize(("key", "index"), [("1", 1), ("1.0", 1), ("true", 0), ("0.1", 2), ("0.10", 2)])
def test_keys_of_objects_are_what_they_were_before_json_made_them_text(key: str, index: int) -> None:
    assert Categories([("1", 1), ("0.1", 2)]).index_of_key(key) == index


# From a log to an index and from a request to the same one ----------------------------------------------------------

ROWS = 40
OWNERS: tuple[Owner, ...] = ("exposure", "item", "user")


def prepared_of(folder: Path, columns: dict[str, pa.Array]) -> Prepared:
    """A log of ROWS users and items, with every type as a feature of each owner, in lists, and as feedback."""
    features: list[Feature] = []
    for name in columns:
        features += [Feature(name=f"{owner}_{name}", owner=owner, kind="categorical", column=name) for owner in OWNERS]
        features.append(Feature(name=f"several_{name}", owner="exposure", kind="multi", column=f"{name}_l"))
    feedback = tuple(Feedback(name=f"back_{name}", column=name) for name in columns)
    lists = {f"{name}_l": pa.array([[v] for v in c.to_pylist()], pa.list_(c.type)) for name, c in columns.items()}
    ids = {"user": [f"u{row}" for row in range(ROWS)], "item": [f"i{row}" for row in range(ROWS)]}
    return prepare_log(folder, pa.table(log(ROWS, **ids, **columns, **lists)), features=features, feedback=feedback)


class Served:
    """What comes of `rows`, sent in JSON: role and type → the index of every row."""

    def __init__(self, prepared: Prepared, rows: list[dict[str, Any]]):
        self.folder, self.manifest, self.rows = prepared.folder, prepared.manifest, rows
        self.items, self.users = (FeatureTable.load(self.folder, o, self.manifest.spec) for o in ("item", "user"))
        self.catalogue = Catalogue(self.items, self.folder, self.manifest)
        self.store = SQLiteStore(":memory:")
        self.histories = Histories(
            self.folder,
            self.manifest,
            past=NoPast(self.manifest.spec),
            catalogue=self.catalogue,
            users=self.users,
            store=self.store,
        )

    def named(self, *roles: str) -> list[dict[str, Any]]:
        return [
            {f"{role}_{name}": [value] if role == "several" else value for name, value in row.items() for role in roles}
            for row in self.rows
        ]

    def contexts(self) -> dict[str, list[Any]]:
        candidates = [{"item": place, "context": each} for place, each in enumerate(self.named("exposure", "several"))]
        request = sent(RankBody, user="u", candidates=candidates).query()
        encoder = self.histories.context
        found = encoder.encode(encoder.of_each(request.context, request.of_each), len(self.rows))
        return {
            name: _lists(column) if isinstance(column, Jagged) else column.tolist() for name, column in found.items()
        }

    def new_items(self) -> dict[str, list[int]]:
        items = [{"item": f"new{place}", "features": each} for place, each in enumerate(self.named("item"))]
        self.catalogue.put(sent(ItemsBody, items=items).taken())
        rows = self.catalogue.find([f"new{place}" for place in range(len(self.rows))])
        return {f"item_{name}": self.catalogue.table.features[f"item_{name}"][rows].tolist() for name in self.rows[0]}

    def users_again(self) -> dict[str, list[int]]:
        encoder = FeatureEncoder(self.folder, self.manifest, "user")
        found = encoder.encode_each(json.loads(json.dumps(self.named("user"))))
        return {f"user_{name}": found[f"user_{name}"].tolist() for name in self.rows[0]}

    def feedback(self) -> dict[str, list[int]]:
        events = [
            {"user": "v", "item": f"i{place}", "time": START + place, "actions": each}
            for place, each in enumerate(self.named("back"))
        ]
        self.store.append(sent(EventsBody, events=events).taken())
        return {name: column.tolist() for name, column in self.histories.of("v").timeline.feedback.items()}


def sent(kind: Any, **values: Any) -> Any:
    return msgspec.json.decode(json.dumps(values).encode(), type=kind)


def _lists(column: Jagged) -> list[list[int]]:
    return [column.values[slice(*column.offsets[row : row + 2])].tolist() for row in range(len(column.offsets) - 1)]


@examples(12, 2)
@given(columns_of)
def test_a_value_sent_in_json_has_the_index_that_it_was_prepared_with(values: dict[str, list[Any]]) -> None:
    columns = {name: pa.array([values[name][row % 5] for row in range(ROWS)], TYPES[name][0]) for name in IN_JSON}
    rows = [
        {name: None if category(value) is None else value for name, value in row.items()}
        for row in pa.table(columns).to_pylist()
    ]
    with TemporaryDirectory() as folder:
        prepared = prepared_of(Path(folder), columns)
        served = Served(prepared, rows)
        stored = sorted(prepared.rows(), key=lambda row: int(row["item"][1:]))
        for role, found in (("feature", served.contexts()), ("feedback", served.feedback())):
            assert found == {name: [row[f"{role}_{name}"] for row in stored] for name in found}
        for owner, table, found in (("i", served.items, served.new_items()), ("u", served.users, served.users_again())):
            row = table.find([f"{owner}{place}" for place in range(ROWS)])
            assert found == {name: table.features[name][row].tolist() for name in found}
        for name in IN_JSON:
            assert any(row[f"feature_exposure_{name}"] for row in stored) or not any(
                row[name] is not None and row[name] not in NULL_VALUES for row in rows
            )
        served.store.close()
