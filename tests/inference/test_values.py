"""Values in requests: what no feature can have is refused in one line, and answers are finite numbers."""

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from exposure_logs import Prepared, log, prepare_log
from genrank.artifacts.index import IndexConfig, StoredIndex
from genrank.batch import Jagged
from genrank.data.request import FeatureEncoder, numeric_bucket
from genrank.data.tables import FeatureTable
from genrank.errors import BundleError, GenRankError, RequestError
from genrank.inference import left_out as left_out_module
from genrank.inference.catalogue import Catalogue, Item
from genrank.inference.gen_ranker import as_id, as_ids, check_candidates, check_time, check_value
from genrank.inference.histories import Histories
from genrank.inference.left_out import LeftOut
from genrank.inference.pasts import NoPast
from genrank.inference.retrieval_engine import open_index
from genrank.inference.sqlite_store import SQLiteStore
from genrank.inference.stages import value_of
from genrank.inference.store import Event, StoreUnavailable, UserEvents
from genrank.schema import DataSpec, Feature, Feedback, TaskSpec
from genrank.server.wire import EventBody, RankBody, RetrieveBody

ROWS = 60
FEATURES = (
    Feature(name="device", owner="exposure", kind="categorical", column="device"),
    Feature(name="price", owner="exposure", kind="numeric", column="price"),
    Feature(name="tags", owner="exposure", kind="multi", column="tags"),
    Feature(name="words", owner="exposure", kind="multi", column="words", separator="|"),
    Feature(name="loves", owner="exposure", kind="multi", column="tags", weights="strength"),
    Feature(name="topic", owner="item", kind="categorical", column="topic"),
    Feature(name="flag", owner="item", kind="categorical", column="flag"),
    Feature(name="labels", owner="item", kind="multi", column="labels"),
    Feature(name="vector", owner="item", kind="embedding", column="vector"),
)
LONG = "x" * 10_000


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    rows = range(ROWS)
    columns = {
        "device": [f"d{row % 3}" for row in rows],
        "price": pa.array([row % 10 / 10 for row in rows], pa.float32()),
        "tags": [["a", "b", "c"][: row % 4] for row in rows],
        "strength": [[1.0, 2.0, 3.0][: row % 4] for row in rows],
        "words": [("a", "b|c", "a|c")[row % 3] for row in rows],
        "topic": [row * 7 % 10 % 3 for row in rows],
        "flag": [row * 7 % 10 < 5 for row in rows],
        "labels": [[row * 7 % 10 / 10, 0.5] for row in rows],
        "vector": [[float(row * 7 % 10), 1.0] for row in rows],
        "went": [row % 2 == 0 for row in rows],
    }
    feedback = (Feedback(name="went", column="went"),)
    return prepare_log(
        tmp_path_factory.mktemp("values"), pa.table(log(ROWS, **columns)), features=FEATURES, feedback=feedback
    )


@pytest.fixture(scope="module")
def encoder(prepared: Prepared) -> FeatureEncoder:
    return FeatureEncoder(prepared.folder, prepared.manifest, "exposure")


@pytest.fixture
def catalogue(prepared: Prepared) -> Catalogue:
    items = FeatureTable.load(prepared.folder, "item", prepared.manifest.spec)
    return Catalogue(items, prepared.folder, prepared.manifest)


@pytest.fixture
def histories(prepared: Prepared, catalogue: Catalogue) -> Histories:
    users = FeatureTable.load(prepared.folder, "user", prepared.manifest.spec)
    spec = prepared.manifest.spec
    return Histories(prepared.folder, prepared.manifest, past=NoPast(spec), catalogue=catalogue, users=users)


def refused(words: str, act: Any) -> None:
    with pytest.raises(RequestError) as caught:
        act()
    line = str(caught.value)
    assert words in line
    assert "\n" not in line
    assert len(line) < 500


def test_items_that_changed_or_came_have_their_own_features_the_others_those_given(
    prepared: Prepared, catalogue: Catalogue
) -> None:
    given = {name: catalogue.table.features[name] for name in ("topic", "labels")}
    given["topic"] = given["topic"] + 10  # of a table that knows more values
    code_of = {name: np.arange(100, dtype=np.int32)[::-1] for name in given}
    assert catalogue.over(given, code_of)["topic"].tolist() == given["topic"].tolist()
    known = catalogue.table.ids.to_pylist()[3]
    catalogue.put([Item(id=known, features={"topic": 1, "labels": [0.5]}), Item(id="new", features={"topic": 2})])
    found, here = catalogue.over(given, code_of), catalogue.table.features
    rows = [3, len(catalogue.table) - 1]
    others = np.setdiff1d(np.arange(len(catalogue.table)), rows)
    assert (here["topic"][rows] > 0).all()
    assert found["topic"][rows].tolist() == code_of["topic"][here["topic"][rows]].tolist()
    assert found["topic"][others].tolist() == given["topic"][others].tolist()
    labels = here["labels"]
    changed = np.isin(np.repeat(np.arange(len(catalogue.table)), np.diff(labels.offsets)), rows)
    codes = np.where(changed, code_of["labels"][labels.values], labels.values)
    assert found["labels"].values.tolist() == codes.tolist()
    assert found["labels"].offsets.tolist() == labels.offsets.tolist()


def test_what_is_stored_and_cannot_be_read_is_left_out_and_named(
    prepared: Prepared, catalogue: Catalogue, caplog: pytest.LogCaptureFixture
) -> None:
    left_out = LeftOut("what is stored")
    stored = [Item(id="odd", features={"topic": [1]}), Item(id="new", features={"topic": 1, "of another schema": 1})]
    assert [item.id for item in catalogue.put_readable(stored, left_out)] == ["new"]
    assert catalogue.find(["odd", "new"]).tolist() == [0, 11]
    store = SQLiteStore(":memory:")
    odd = ({"actions": {"went": [1]}}, {"context": {"device": {}}})
    store.append([Event(user="u", item="i1", time=place, **each) for place, each in enumerate((*odd, {}), 1)])
    spec, users = prepared.manifest.spec, FeatureTable.load(prepared.folder, "user", prepared.manifest.spec)
    histories = Histories(
        prepared.folder, prepared.manifest, past=NoPast(spec), catalogue=catalogue, users=users, store=store
    )
    assert histories.of("u").timeline.time.tolist() == [3]
    store.close()
    said = [record.getMessage() for record in caplog.records]
    assert "what is stored: the item 'odd' is left out: item: topic: expected text" in said[0]
    assert ["of user 'u' is left out" in line for line in said[1:]] == [True, True]


def test_items_that_all_can_not_be_read_leave_the_catalogue_as_it_was(catalogue: Catalogue) -> None:
    table, left_out = catalogue.table, LeftOut("what is stored", quiet=True)
    assert catalogue.put_readable([Item(id="odd", features={"topic": [1]})], left_out) == []
    assert catalogue.put_readable([], left_out) == []
    assert (catalogue.table, catalogue.version) == (table, 0)
    assert left_out.counts == {"item": 1}


def stored_events(count: int) -> list[Event]:
    return [Event(user="u", item=f"i{place}", time=100 + place) for place in range(count)]


def with_store(prepared: Prepared, catalogue: Catalogue, store: SQLiteStore) -> Histories:
    spec, users = prepared.manifest.spec, FeatureTable.load(prepared.folder, "user", prepared.manifest.spec)
    return Histories(
        prepared.folder, prepared.manifest, past=NoPast(spec), catalogue=catalogue, users=users, store=store
    )


def test_an_archive_that_has_not_changed_is_not_read_again_and_stays_in_the_history(
    prepared: Prepared, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    events, archives = stored_events(7), []
    with closing(SQLiteStore(":memory:", max_events=4)) as store:
        store.append(events[:6])
        histories, read = with_store(prepared, catalogue, store), store.events

        def watched(user: str, *, archive: int = -1) -> UserEvents:
            archives.append(read(user, archive=archive).archived)
            return read(user, archive=archive)

        monkeypatch.setattr(store, "events", watched)
        assert histories.of("u").timeline.time.tolist() == [event.time for event in events[:6]]
        store.append(events[6:])
        assert histories.of("u").timeline.time.tolist() == [event.time for event in events]
    assert [None if archived is None else len(archived) for archived in archives] == [2, None]


def test_while_the_store_is_out_of_reach_a_history_is_as_it_was_last_seen(
    prepared: Prepared, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(SQLiteStore(":memory:")) as store:
        store.append(stored_events(3))
        histories = with_store(prepared, catalogue, store)
        assert histories.of("u").current

        def silent(user: str) -> int:
            raise StoreUnavailable("no answer")

        monkeypatch.setattr(store, "version", silent)
        seen, never_seen = histories.of("u"), histories.of("v")
    assert (seen.current, seen.timeline.time.tolist()) == (False, [100, 101, 102])
    assert (never_seen.current, never_seen.timeline.num_exposures) == (False, 0)


def test_what_is_left_out_is_named_up_to_a_number_and_then_counted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(left_out_module, "MAX_NAMED", 2)
    monkeypatch.setattr(left_out_module, "MAX_COUNTED", 4)
    served, checked = LeftOut("here"), LeftOut("there", quiet=True)
    for place in (0, *range(6)):  # the first one twice
        served.item(f"i{place}", "odd")
        checked.event("u", f"e{place}", "odd")
    said = [record.getMessage() for record in caplog.records]
    assert ["is left out" in line for line in said] == [True, True, False]
    assert said[2] == "here: further entries are only counted; genrank store STORE check names all"
    assert (served.counts, checked.counts) == ({"item": 4}, {"event": 6})


def test_an_index_of_other_items_is_refused(catalogue: Catalogue) -> None:
    stored = StoredIndex(
        folder=Path("runs/r/index/v"),
        version="v",
        config=IndexConfig(model="m", num_items=1, width=2, files={}),
        ids=["of another feed"],
        embedded_IW=np.zeros((1, 2), np.float32),
    )
    model: Any = None  # is not asked
    with pytest.raises(BundleError, match="none of its items is in the data; run genrank index RUN --data DATA"):
        open_index(model, stored, catalogue, precision="int8")


@pytest.mark.parametrize(
    ("context", "words"),
    [
        ({"device": [["d1"], "d2"]}, "device: expected text, a number, true, false or null, found ['d1']"),
        ({"device": {"d1": 1}}, "found {'d1': 1}; send one plain value"),
        ({"device": {LONG: LONG}}, "device: expected text"),
        ({"device": ["d1"] * 3}, "device has 3 values for 2 candidates"),
        ({"price": {"a": 1}}, "price must be a number, found {'a': 1}"),
        ({"price": "cheap"}, "price must be a number, found 'cheap'; leave it out if it is unknown"),
        ({"price": 10**400}, "price must be a number"),
        ({"tags": "abc"}, "tags must be a list of values, found 'abc'"),
        ({"tags": LONG}, "tags must be a list of values, found 'xxx"),
        ({"tags": 7}, "tags must be a list of values, found 7"),
        ({"tags": True}, "tags must be a list of values, found True"),
        ({"tags": {"a": 1}}, "tags must be a list of values, found {'a': 1}"),
        ({"tags": [["a"], "abc"]}, "tags must be a list of values, found 'abc'"),
        ({"tags": [[["a"]], []]}, "tags: expected text, a number, true, false or null, found ['a']"),
        ({"words": {"a": 1}}, "words must be a list of values, found"),
        ({"loves": {"a": 1e300}}, "loves: 'a' must have a weight that is a number from 0 to 1e18, found 1e+300"),
        ({"loves": {"a": [1]}}, "found [1]"),
        ({"devise": "d1"}, "there is no feature 'devise'; did you mean 'device'?"),
        ({"topic": 1}, "context: there is no feature 'topic'"),
        ({LONG: 1}, "there is no feature 'xxx"),
    ],
)  # fmt: skip
def test_a_context_that_no_feature_can_have_is_refused(
    encoder: FeatureEncoder, context: dict[str, Any], words: str
) -> None:
    refused(words, lambda: encoder.encode(context, 2))


def lists_of(encoder: FeatureEncoder, name: str, body: dict[str, Any]) -> list[list[int]]:
    request = msgspec.json.decode(json.dumps({"user": "u", **body}).encode(), type=RankBody).query()
    column = encoder.encode(encoder.of_each(request.context, request.of_each), len(request.candidates))[name]
    return [
        sorted(column.values[slice(*column.offsets[row : row + 2])].tolist()) for row in range(len(request.candidates))
    ]


def test_a_candidates_own_text_is_its_own(encoder: FeatureEncoder) -> None:
    known = encoder.vocabularies["words"]
    a, b, c = (known[word] for word in "abc")
    own = [{"item": "1", "context": {"words": "a"}}, {"item": "2", "context": {"words": "b|c"}}, "3"]
    assert lists_of(encoder, "words", {"candidates": own}) == [[a], sorted([b, c]), []]
    assert lists_of(encoder, "words", {"candidates": own, "context": {"words": "c"}})[2] == [c]
    assert (
        lists_of(encoder, "words", {"candidates": ["1", "2"], "context": {"words": ["a", "b|c"]}})
        == [sorted([a, b, c])] * 2
    )
    for odd in ("abc", 5, True):
        own = [{"item": "1", "context": {"tags": odd}}, "2"]
        refused("tags must be a list of values, found", lambda own=own: lists_of(encoder, "tags", {"candidates": own}))


def test_numbers_from_32_bits_fall_into_the_bucket_of_the_log(prepared: Prepared, encoder: FeatureEncoder) -> None:
    found = {row["time"] % 10: row["feature_price"] for row in prepared.rows()}
    for tenth, bucket in found.items():
        double, single = tenth / 10, float(np.float32(tenth / 10))
        assert encoder.encode({"price": [double, single]}, 2)["price"].tolist() == [bucket, bucket]
    assert numeric_bucket("x", float("inf"), (0.5,)) == 0


@pytest.mark.parametrize(
    ("features", "words"),
    [
        ({"topic": [1]}, "item: topic: expected text"),
        ({"topic": {"a": 1}}, "item: topic: expected text"),
        ({"labels": "abc"}, "item: labels must be a list of values, found 'abc'"),
        ({"colour": 1}, "item: there is no feature 'colour'"),
        ({"device": "d1"}, "item: there is no feature 'device'"),
        ({"vector": [1e30, 1]}, "vector must be 2 numbers from -1e15 to 1e15, found 2 values"),
        ({"vector": [float("nan"), 1]}, "vector must be 2 numbers"),
        ({"vector": LONG}, "vector must be 2 numbers"),
    ],
)
def test_an_item_that_no_feature_can_have_is_refused(
    catalogue: Catalogue, features: dict[str, Any], words: str
) -> None:
    refused(words, lambda: catalogue.put([Item(id="new", features=features)]))


@pytest.mark.parametrize(
    ("actions", "words"),
    [
        ({"went": [True]}, "actions: went of item 'i1': expected text, a number, true, false or null, found [True]"),
        ({"went": {LONG: 1}}, "actions: went of item 'i1': expected text"),
        ({"gone": 1}, "there is no task or feedback 'gone'"),
        ({"click": -0.5}, "must be true, false or null, found -0.5"),
        ({"click": LONG}, "must be true, false or null, found 'xxx"),
    ],
)
def test_actions_that_no_task_or_feedback_can_have_are_refused(
    histories: Histories, actions: dict[str, Any], words: str
) -> None:
    refused(words, lambda: histories.check(Event(user="u", item="i1", time=1, actions=actions)))


@pytest.mark.parametrize(
    ("known_at", "words"),
    [
        (4, "known_at of item 'i1' is 4, before its time 5"),
        (6, "known_at of item 'i1' is after its time, and the model's log knows all actions at once; leave it out"),
    ],
)
def test_actions_are_known_when_the_schema_says(histories: Histories, known_at: int, words: str) -> None:
    refused(words, lambda: histories.check(Event(user="u", item="i1", time=5, known_at=known_at)))
    for same in (0, 5):
        histories.check(Event(user="u", item="i1", time=5, known_at=same))


@pytest.mark.parametrize(
    ("name", "value"), [("topic", 1), ("topic", 1.0), ("topic", "1"), ("flag", True), ("labels", 0.7)]
)
def test_items_without_a_value_of_any_type_are_found(catalogue: Catalogue, name: str, value: Any) -> None:
    body = json.dumps({"user": "u", "without": {name: [value, "other", None]}}).encode()
    without = msgspec.json.decode(body, type=RetrieveBody).query().without
    wanted = {
        "topic": [item for item in range(10) if item % 3 == 1],
        "flag": [item for item in range(10) if item < 5],
        "labels": [7],
    }[name]
    rows = catalogue.rows_with(name, without[name])
    assert sorted(str(catalogue.table.ids[int(row)]) for row in rows) == [f"i{item}" for item in wanted]


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("topic", "1", "without: topic must be a list of values, found '1'; put it in a list"),
        ("topic", [["1"]], "without: topic: expected text"),
        ("topic", [{"a": 1}], "without: topic: expected text"),
        ("device", ["d1"], "without: there is no item feature 'device'"),
        (LONG, ["d1"], "without: there is no item feature 'xxx"),
    ],
)
def test_values_to_do_without_are_plain_ones_of_an_item_feature(
    catalogue: Catalogue, name: str, values: Any, words: str
) -> None:
    refused(words, lambda: catalogue.rows_with(name, values))


@pytest.mark.parametrize("value", [True, None, 1.5e300, [1], {"a": 1}, float("nan")])
def test_ids_are_text_or_whole_numbers(value: Any) -> None:
    refused("send ids as text or whole numbers", lambda: as_id("user", value))
    refused("candidates: expected", lambda: as_ids("candidates", [value]))


def test_letters_are_no_candidates() -> None:
    refused("candidates: expected a list of ids, found the text 'abc'", lambda: as_ids("candidates", "abc"))
    assert as_ids("candidates", ["a", 1, 2.0, np.int64(3)]) == ["a", "1", "2", "3"]
    refused("given twice", lambda: check_candidates(as_ids("candidates", ["1", 1.0])))
    refused("there are no candidates to rank", lambda: check_candidates([]))
    refused("a candidate is empty", lambda: check_candidates(["1", ""]))


@pytest.mark.parametrize("time", [True, 1.5, -1, 2**40, "now", None])
def test_times_are_whole_seconds(time: Any) -> None:
    refused("give whole seconds since the epoch", lambda: check_time(time))


@pytest.mark.parametrize("field", ["time", "known_at", "position"])
def test_truth_values_are_no_times(field: str) -> None:
    body = {"user": "u", "item": "i", "time": 1, field: True}
    with pytest.raises(msgspec.ValidationError, match="got `bool`"):
        msgspec.json.decode(json.dumps(body).encode(), type=EventBody)


SPEC = DataSpec(features=(), tasks=tuple(TaskSpec(name=name, kind="binary") for name in ("click", "like")))


@pytest.mark.parametrize("weight", [1.0000001e18, -1e300, float("inf"), float("nan"), True, "1", None])
def test_weights_are_bounded_so_that_their_sum_is_a_number(weight: Any) -> None:
    refused("value: the weight of click is", lambda: check_value({"click": weight}, SPEC))
    refused("value: there is no task 'clik'; did you mean 'click'?", lambda: check_value({"clik": 1.0}, SPEC))
    check_value({"click": 1e18, "like": -1e18}, SPEC)
    scores = {"click": np.array([1e9]), "like": np.array([1e9])}
    assert np.isfinite(value_of(["a"], scores, {"click": 1e18, "like": 1e18})).all()


@pytest.mark.parametrize("score", [float("nan"), float("inf"), -float("inf")])
def test_scores_that_are_no_numbers_are_never_answered(score: float) -> None:
    scores = {"click": np.array([0.5, score])}
    with pytest.raises(GenRankError, match=r"the model's score \(click\) of item 'b' is"):
        value_of(["a", "b"], scores, {"click": 1.0})


def test_what_all_candidates_share_is_read_once(encoder: FeatureEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = {"device": "d1", "price": 0.3, "tags": ["c", "a"], "words": "a|c", "loves": {"b": 2.0}}
    expected = encoder.encode({name: [value] * 5 for name, value in shared.items()}, 5)
    read = 0
    index = encoder._columns

    def counted(feature: Any, values: Any) -> Any:
        nonlocal read
        read += len(values)
        return index(feature, values)

    monkeypatch.setattr(encoder, "_columns", counted)
    found = encoder.encode(shared, 5)
    assert read == len(shared)
    for name, column in expected.items():
        if isinstance(column, Jagged):
            np.testing.assert_array_equal(found[name].offsets, column.offsets)
            np.testing.assert_array_equal(found[name].values, column.values)
            np.testing.assert_array_equal(found[name].weights, column.weights)
            assert found[name].values.dtype == column.values.dtype
        else:
            np.testing.assert_array_equal(found[name], column)
            assert found[name].dtype == column.dtype
