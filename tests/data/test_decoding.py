"""Raw values from indices: what a feed's backend would have sent."""

import numpy as np
import pyarrow as pa
import pytest

from exposure_logs import CLICK, START, Prepared, log, prepare_log
from genrank.data.decoding import Decoder
from genrank.data.prepared import PreparedData
from genrank.data.request import FeatureEncoder
from genrank.schema import Feature, Feedback, Task

DEVICES, TAGS = ["phone", None, "desk"], [["a"], [], ["b", "a"], None]
SECONDS, CLICKS, RATINGS = [0.5, None, 4.0, 2.5], [1, 0, None], ["good", None, "bad", "good"]
PRICES = [0.5, None, 3.0, 7.0, 7.0]


def cycled(values: list, count: int = 60) -> list:
    return [values[row % len(values)] for row in range(count)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    rows = log(60, click=cycled(CLICKS), dwell=cycled(SECONDS), rating=cycled(RATINGS), device=cycled(DEVICES))
    rows = rows | {"tags": pa.array(cycled(TAGS), pa.list_(pa.string())), "price": cycled(PRICES)}
    return prepare_log(
        tmp_path_factory.mktemp("decoded"),
        pa.table(rows),
        tasks=(CLICK, Task(name="dwell", kind="duration", column="dwell")),
        feedback=(Feedback(name="rating", column="rating"),),
        features=(
            Feature(name="device", owner="exposure", kind="categorical", column="device"),
            Feature(name="price", owner="exposure", kind="numeric", column="price", boundaries=(1.0, 5.0)),
            Feature(name="tags", owner="exposure", kind="multi", column="tags"),
        ),
    )


def test_actions_are_those_of_the_log_and_unknown_ones_are_none(made: Prepared) -> None:
    t = PreparedData.load(made.folder).timelines
    decoded = Decoder(made.folder, made.manifest).actions(t, np.arange(60))
    for action, row in zip(decoded, (t.time - START).tolist(), strict=True):
        clicked = CLICKS[row % 3]
        expected = {"click": None if clicked is None else bool(clicked), "dwell": SECONDS[row % 4]}
        assert action == expected | {"rating": RATINGS[row % 4]}


def test_contexts_are_those_of_the_log_without_unknown_features(made: Prepared) -> None:
    t = PreparedData.load(made.folder).timelines
    decoded = Decoder(made.folder, made.manifest).contexts(t, np.arange(60))
    for context, row in zip(decoded, (t.time - START).tolist(), strict=True):
        device, price, tags = DEVICES[row % 3], PRICES[row % 5], TAGS[row % 4]
        assert context.get("device") == device
        assert ("device" in context, "tags" in context) == (device is not None, bool(tags))
        assert sorted(context.get("tags", [])) == sorted(tags or [])
        found = context.get("price")
        assert (found is None) == (price is None)
        assert price is None or np.digitize(found, (1.0, 5.0)) == np.digitize(price, (1.0, 5.0))


def test_decoded_contexts_are_encoded_to_the_indices_of_the_log(made: Prepared) -> None:
    t = PreparedData.load(made.folder).timelines
    decoded = Decoder(made.folder, made.manifest).contexts(t, np.arange(60))
    again = FeatureEncoder(made.folder, made.manifest, "exposure").encode_each(decoded)
    for name in ("device", "price"):
        assert again[name].tolist() == t.features[name].tolist()
    assert again["tags"].values.tolist() == t.features["tags"].values.tolist()
    assert again["tags"].offsets.tolist() == t.features["tags"].offsets.tolist()
