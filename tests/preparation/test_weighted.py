"""Weighted multi-valued features: the same numbers from the log to the embedding, and from a request to it."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from exposure_logs import Prepared, log, prepare_log
from genrank.batch import Jagged
from genrank.cli import main
from genrank.config import build
from genrank.data.decoding import Decoder
from genrank.data.loader import Loader, LoaderConfig
from genrank.data.prepared import PreparedData
from genrank.data.request import FeatureEncoder
from genrank.data.tables import FeatureTable
from genrank.errors import LogError, RequestError, SchemaError
from genrank.inference.catalogue import Catalogue, Item
from genrank.inference.gen_ranker import GenRanker
from genrank.nn.embeddings import Table
from genrank.runs.predict import predict
from genrank.schema import Feature, SideTable, SideTables
from genrank.server.wire import ItemBody

Lists = list[list[Any] | None]
TAGS = Feature(name="tags", owner="exposure", kind="multi", column="tags", weights="how", max_values=2)
GENRES = Feature(name="genres", owner="item", kind="multi", column="genres", weights="share")
VALUES: Lists = [["a", "b", "a"], [], None, ["c", None, "new", "b", "a"], [" a", "c"]]
WEIGHTS: Lists = [[0.5, 2.0, 9.0], [], None, [0.25, 7.0, 1.0, 0.125, 1.0], [0.1, 0.0]]
COUNT = 60


def weighted_log(*, as_text: bool = False) -> dict[str, Any]:
    """Of one user. The first 45 exposures, training, know a, b and c; the list with "new" comes later."""
    known = [VALUES[0], VALUES[1], VALUES[2], ["c"], VALUES[4]]
    weights = [*WEIGHTS[:3], [1.0], WEIGHTS[4]]
    values, how = [*(known * 11), *VALUES], [*(weights * 11), *WEIGHTS]
    columns = log(COUNT, user=["u"] * COUNT)
    if as_text:
        text = [None if row is None else ";".join(value or "" for value in row) for row in values]
        return columns | {"tags": text, "how": [None if row is None else ";".join(map(str, row)) for row in how]}
    lists = {"tags": pa.array(values, pa.list_(pa.string())), "how": pa.array(how, pa.list_(pa.float32()))}
    return columns | lists


@pytest.mark.parametrize("as_text", [False, True])
def test_values_keep_their_weights_where_others_are_dropped(tmp_path: Path, as_text: bool) -> None:
    feature = TAGS if not as_text else build(Feature, {**vars(TAGS), "separator": ";"}, where="test")
    prepared = prepare_log(tmp_path, weighted_log(as_text=as_text), features=(feature,))
    index = {value: place for value, place, _ in prepared.vocabulary("tags")}
    got = [(row["feature_tags"], row["feature_tags:weights"]) for row in prepared.rows()[-5:]]
    a, b, c = index["a"], index["b"], index["c"]
    assert got == [
        ([a, b], [0.5, 2.0]),
        ([], []),
        ([], []),
        ([c, b], [0.25, 0.125]),
        ([a, c], [pytest.approx(0.1), 0.0]),
    ]
    assert prepared.manifest.spec.features[-1].weighted


def test_of_two_equal_exposures_one_stays_with_its_own_weights(tmp_path: Path) -> None:
    columns = log(COUNT, user=["u"] * COUNT)
    columns["time"] = [columns["time"][0], *columns["time"][:-1]]
    columns["item"] = [columns["item"][0], *columns["item"][:-1]]
    columns["tags"] = pa.array([["a", "b"], ["a", "b"], *([["b"]] * (COUNT - 2))])
    columns["how"] = pa.array([[1.0, 2.0], [3.0, 4.0], *([[5.0]] * (COUNT - 2))])
    rows = prepare_log(tmp_path, columns, features=(TAGS,)).rows()
    assert len(rows) == COUNT - 1
    assert sorted(rows[0]["feature_tags:weights"]) in ([1.0, 2.0], [3.0, 4.0])


@pytest.mark.parametrize("from_log", [False, True])
def test_items_have_weights_from_their_table_or_the_log(tmp_path: Path, from_log: bool) -> None:
    prepared = with_genres(tmp_path, from_log=from_log)
    rows = {row["id"]: row for row in prepared.table("items.parquet").to_pylist()}
    name = {index: value for value, index, _ in prepared.vocabulary("genres")}
    found = {
        item: {name[index]: weight for index, weight in zip(row["genres"], row["genres:weights"], strict=True)}
        for item, row in rows.items()
    }
    assert found["i3"] == {"g0": pytest.approx(0.3), "g1": pytest.approx(0.7)}
    assert found[None] == found["i0"] == {}


def genres(item: int) -> dict[str, float]:
    return {f"g{item % 3}": item / 10, f"g{(item + 1) % 3}": 1 - item / 10} if item else {}


def with_genres(folder: Path, *, from_log: bool = False) -> Prepared:
    """A log of four users and ten items, whose genres and tags have weights."""
    shown = [int(row * 7 % 10) for row in range(400)]
    columns = log(400)
    random = np.random.default_rng(0)
    tags = [random.choice(["x", "y", "z"], random.integers(0, 4), replace=False).tolist() for _ in shown]
    columns["tags"] = pa.array(tags, pa.list_(pa.string()))
    columns["how"] = pa.array([random.random(len(row)).tolist() for row in tags], pa.list_(pa.float64()))
    items = shown if from_log else range(10)
    side = {
        "genres": pa.array([list(genres(item)) for item in items], pa.list_(pa.string())),
        "share": pa.array([list(genres(item).values()) for item in items], pa.list_(pa.float64())),
    }
    tables = SideTables()
    if from_log:
        columns |= side
    else:
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"item": [f"i{item}" for item in items], **side}), folder / "items.parquet")
        tables = SideTables(item=SideTable(path="items.parquet", key="item"))
    return prepare_log(folder, columns, features=(TAGS, GENRES), tables=tables)


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ([[1.0], [0.5, 0.5]], "found a row with 2 values and 1 weights; give both lists one length"),
        ([None, [0.5, 0.5]], "found a row with 2 values and 0 weights"),
        ([[1.0, -0.5], [0.5, 0.5]], "numbers of 0 or more, found -0.5"),
        ([[1.0, float("nan")], [0.5, 0.5]], "found nan"),
        ([[1.0, None], [0.5, 0.5]], "found nothing"),
    ],
)
@pytest.mark.parametrize("owner", ["exposure", "item"])
def test_weights_that_are_none_are_refused(tmp_path: Path, owner: str, weights: Lists, words: str) -> None:
    how = [*weights, *([[1.0, 1.0]] * (COUNT - 2))]
    columns = log(COUNT) | {"tags": [["a", "b"]] * COUNT, "how": pa.array(how, pa.list_(pa.float64()))}
    columns["item"] = [f"i{row}" for row in range(COUNT)]
    feature = build(Feature, {**vars(TAGS), "owner": owner}, where="test")
    with pytest.raises(LogError) as caught:
        prepare_log(tmp_path, columns, features=(feature,))
    assert words in str(caught.value)
    assert "feature 'tags'" in str(caught.value)
    assert not (tmp_path / "prepared").exists()


def test_weights_of_another_type_or_name_are_refused(tmp_path: Path) -> None:
    columns = log(COUNT) | {"tags": [["a"]] * COUNT, "how": [1.0] * COUNT}
    with pytest.raises(LogError, match="expected lists in column 'how', found float64"):
        prepare_log(tmp_path, columns, features=(TAGS,))
    with pytest.raises(SchemaError, match="there is no column 'how' in the log"):
        prepare_log(tmp_path, {name: column for name, column in columns.items() if name != "how"}, features=(TAGS,))
    with pytest.raises(ValueError, match="'weights' is for multi-valued features"):
        Feature(name="tags", owner="item", kind="categorical", column="tags", weights="how")


def test_the_embedding_is_the_weighted_mean_and_so_is_its_gradient() -> None:
    torch.manual_seed(0)
    table = Table(5, 3)
    values, offsets = torch.tensor([1, 4, 2, 2, 3]), torch.tensor([0, 2, 2, 4, 5])
    weights = torch.tensor([0.5, 1.5, 2.0, 1.0, 0.0])
    with torch.no_grad():
        table.weight[0] = 7.0
    got = table.mean(Jagged(values, offsets, weights))
    dense = table.weight.detach().clone().requires_grad_()
    expected = torch.stack([(0.5 * dense[1] + 1.5 * dense[4]) / 2, dense[0], dense[2], dense[0]])
    torch.testing.assert_close(got, expected)
    factor = torch.randn(4, 3)
    (got * factor).sum().backward()
    (expected * factor).sum().backward()
    torch.testing.assert_close(table.weight.grad.to_dense(), dense.grad)
    alike = table.mean(Jagged(values, offsets, torch.full((5,), 0.3)))
    torch.testing.assert_close(alike, table.mean(Jagged(values, offsets)))


def test_a_request_gives_the_indices_and_weights_that_prepare_gives(tmp_path: Path) -> None:
    prepared = prepare_log(tmp_path, weighted_log(), features=(TAGS,))
    encoder = FeatureEncoder(prepared.folder, prepared.manifest, "exposure")
    contexts: list[dict[str, Any]] = [
        {"tags": {"a": 0.5, "b": 2}},
        {"tags": []},
        {},
        {"tags": {"c": 0.25, "new": 1, "b": 0.125, "a": 1}},
    ]
    contexts.append({"tags": {" a": 0.1, "c": 0.0}})
    got = encoder.encode_each(contexts)["tags"]
    data = PreparedData.load(prepared.folder)
    wanted = data.timelines.features["tags"]
    begin = wanted.offsets[-6]
    assert (got.offsets == wanted.offsets[-6:] - begin).all()
    assert (got.values == wanted.values[begin:]).all()
    assert (got.weights == wanted.weights[begin:]).all()
    decoded = Decoder(prepared.folder, prepared.manifest).contexts(data.timelines, np.arange(COUNT))
    again = encoder.encode_each(decoded)["tags"]
    assert all((getattr(again, part) == getattr(wanted, part)).all() for part in ("values", "offsets", "weights"))
    each = encoder.encode({"tags": [{"a": 0.5}, None, ["b", "a"]]}, 3)["tags"]
    assert (np.diff(each.offsets).tolist(), each.weights.tolist()) == ([1, 0, 2], [0.5, 1.0, 1.0])


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"a": -1}, "tags: 'a' must have a weight that is a number from 0 to 1e18, found -1"),
        ({"a": None}, "found None"),
        ({"a": "1"}, "found '1'"),
        ({"a": float("nan")}, "found nan"),
        ({"a": True}, "found True"),
        ("a", "tags must be a list of values, or an object of values and their weights, found 'a'"),
        (3, "found 3"),
        ({"a": 1e19}, "found 1e+19"),
    ],
)
def test_requests_with_other_weights_are_refused(tmp_path: Path, value: Any, words: str) -> None:
    prepared = prepare_log(tmp_path, weighted_log(), features=(TAGS,))
    encoder = FeatureEncoder(prepared.folder, prepared.manifest, "exposure")
    with pytest.raises(RequestError) as caught:
        encoder.encode({"tags": value}, 2)
    assert words in str(caught.value)


def test_items_that_are_put_have_the_numbers_of_prepared_ones(tmp_path: Path) -> None:
    prepared = with_genres(tmp_path)
    table = FeatureTable.load(prepared.folder, "item", prepared.manifest.spec)
    catalogue = Catalogue(table, prepared.folder, prepared.manifest)
    catalogue.put([Item(id=f"i{item}", features={"genres": genres(item)}) for item in range(10)])
    sent = msgspec.json.decode(b'{"item": "new", "features": {"genres": {"g1": 3}}}', type=ItemBody).as_item()
    catalogue.put([Item.parse("new", sent.body()), Item(id="bare")])
    old, new = table.features["genres"], catalogue.table.features["genres"]
    assert (new.values[: len(old.values)] == old.values).all()
    np.testing.assert_array_equal(new.weights[: len(old.values)], old.weights)
    assert (new.weights[len(old.values) :].tolist(), np.diff(new.offsets)[-2:].tolist()) == ([3.0], [1, 0])


@pytest.mark.parametrize("recipe", ["din-small", "hstu-small"])
def test_ranking_offline_equals_evaluation_with_weights(recipe: str, tmp_path: Path) -> None:
    prepared = with_genres(tmp_path)
    settings = ["model.width=16", "model.num_heads=2", "threads=1", "training.epochs=1", "sequence.max_history=16"]
    flags = [flag for setting in settings for flag in ("--set", setting)]
    assert main(["train", str(prepared.folder), "--recipe", recipe, "--out", str(tmp_path / "run"), *flags]) == 0
    ranker, data = GenRanker.load(tmp_path / "run"), PreparedData.load(prepared.folder)
    builder = data.builder(ranker.bundle.config.sequence)
    judged = predict(ranker.model, Loader(builder, data.part(builder, "test"), LoaderConfig(shuffle=False)), data)
    contexts = Decoder(prepared.folder, prepared.manifest).contexts(data.timelines, judged.exposure)
    for place, row in enumerate(judged.exposure[:20]):
        user, item = str(ranker.users.ids[int(judged.user[place])]), str(ranker.items.ids[int(judged.item[place])])
        time = int(data.timelines.time[row])
        (served,) = ranker.rank(user, [item], time=time, context=contexts[place]).places
        assert served.scores["click"] == pytest.approx(judged.scores["click"][place], abs=1e-5)
    context: dict[str, Any] = {"tags": {"x": 1.0, "y": 3.0}}
    (one,) = ranker.rank(user, [item], time=time, context=context).places
    (other,) = ranker.rank(user, [item], time=time, context={"tags": {"x": 3.0, "y": 1.0}}).places
    assert one.scores["click"] != other.scores["click"]
