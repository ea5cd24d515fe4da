"""The score that `rank` gives a request of the log is the one that `evaluate` judged."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from genrank import GenRanker
from genrank.data.loader import Loader, LoaderConfig
from genrank.data.prepared import PreparedData
from genrank.runs.predict import predict


def assert_ranked_as_judged(run: Path, data: Path) -> None:
    """Ranks requests of the test part one by one and compares every candidate's click score."""
    ranker = GenRanker.load(run)
    prepared = PreparedData.load(data)
    builder = prepared.builder(ranker.bundle.config.sequence, ranker.bundle.config.model.search)
    loader = Loader(builder, prepared.part(builder, "test"), LoaderConfig(shuffle=False))
    judged = predict(ranker.model, loader, prepared)
    compared = 0
    for request in sorted(set(judged.request.tolist()))[:20]:
        rows = judged.request == request
        exposures = judged.exposure[rows]
        items = [str(ranker.items.ids[int(row)]) for row in prepared.timelines.item[exposures]]
        if len(set(items)) < len(items):
            continue
        ranking = ranker.rank(
            str(ranker.users.ids[int(judged.user[rows][0])]),
            items,
            time=int(builder.request_time[exposures[0]]),
            context=raw_context(prepared, data, exposures),
        )
        served = {place.item: place.scores["click"] for place in ranking.places}
        for item, score in zip(items, judged.scores["click"][rows], strict=True):
            assert served[item] == pytest.approx(score, abs=1e-5)
            compared += 1
    assert compared > 20


def raw_context(prepared, data: Path, exposures) -> dict[str, list]:
    """What a caller would have sent: each exposure's device, and an age in the right bucket."""
    vocabulary = pq.read_table(data / "vocab" / "device.parquet").to_pydict()
    device = dict(zip(vocabulary["index"], vocabulary["value"], strict=True))
    edges = prepared.manifest.boundaries["item_age"]
    buckets = prepared.timelines.features["item_age"][exposures]
    return {
        "device": [device.get(int(code)) for code in prepared.timelines.features["device"][exposures]],
        "item_age": [None if b == 0 else edges[0] - 1 if b == 1 else edges[b - 2] for b in buckets],
    }
