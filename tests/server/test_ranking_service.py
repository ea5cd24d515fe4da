"""The service without its web."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from genrank.artifacts.bundle import load_bundle
from genrank.data.decoding import Decoder
from genrank.data.loader import Loader, LoaderConfig
from genrank.data.prepared import PreparedData
from genrank.errors import DataError, RequestError
from genrank.inference.catalogue import Item
from genrank.inference.gen_ranker import GenRanker
from genrank.inference.sqlite_store import SQLiteStore
from genrank.inference.store import Event
from genrank.inference.traffic import events_of
from genrank.runs.predict import predict
from genrank.server.batcher import Overloaded
from genrank.server.deployment import WARM_USERS
from genrank.server.query import PipelineQuery
from genrank.server.ranking_service import RankingService
from genrank.server.service_options import ServiceOptions


@pytest.fixture
def service(counted: Path) -> Iterator[RankingService]:
    made = build(counted, deadline=20.0, values={"likes": {"like": 1.0}})
    yield made
    made.stop()


def build(folder: Path, **options: Any) -> RankingService:
    bundle = load_bundle(folder)
    return RankingService(
        bundle, Path(bundle.config.data), store=SQLiteStore(":memory:"), options=ServiceOptions(**options)
    )


def test_it_ranks_as_the_ranker_does_statistics_and_all(service: RankingService, counted: Path) -> None:
    ranker = GenRanker.load(counted)
    items = tuple(str(item) for item in ranker.items.ids[1:9].to_pylist())
    for user in ranker.users.ids[1:5].to_pylist():
        expected = ranker.rank(user, items)
        found = service.rank(PipelineQuery(user=user, candidates=items, time=expected.time)).result(20)
        assert [place.item for place in found.places] == [place.item for place in expected.places]
        for place, other in zip(found.places, expected.places, strict=True):
            assert place.scores == pytest.approx(other.scores, abs=1e-5, rel=1e-5)


def test_on_an_accelerator_histories_are_encoded_before_the_first_request(
    service: RankingService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernels are compiled for them, which takes longer than a request may."""
    deployed, asked = service.deployed, []
    engine = deployed.engine
    for device, number in (("cpu", 1), ("cuda", 1 + WARM_USERS)):
        asked.clear()
        with monkeypatch.context() as pretended:
            pretended.setattr(engine, "score", asked.extend)
            pretended.setattr(engine, "device", torch.device(device))
            deployed.warm_up()
        assert len(asked) == number
    assert any(found.num_history for found in engine.score(asked))


def test_new_items_and_users_rank_beside_statistics(service: RankingService) -> None:
    assert service.put_items([Item(id="new", features={"length": 20.0})]) == 1
    service.take_events([Event(user="somebody", item="new", time=10, actions={"click": True})])
    found = service.rank(PipelineQuery(user="somebody", candidates=("new", "nothing"), time=20)).result(20)
    assert [found.user_known, found.num_history] == [False, 1]
    assert {place.item: place.known for place in found.places} == {"new": True, "nothing": False}


def test_a_named_value_formula_orders(service: RankingService, counted: Path) -> None:
    items = tuple(str(item) for item in GenRanker.load(counted).items.ids[1:9].to_pylist())
    found = service.rank(PipelineQuery(user="u", candidates=items, value="likes", top_k=3)).result(20)
    likes = [place.scores["like"] for place in found.places]
    assert likes == sorted(likes, reverse=True)
    assert len(likes) == 3
    assert abs(found.time - time.time()) < 60


def test_events_of_a_call_are_kept_together_or_not_at_all(service: RankingService) -> None:
    good = Event(user="u", item="i", time=1)
    for bad in (Event(user="", item="i", time=1), Event(user="u", item="i", time=2, actions={"click": 7})):
        with pytest.raises(RequestError):
            service.take_events([good, bad])
    assert service.user("u")["exposures"] == 0
    assert service.take_events([good]) == 1
    with pytest.raises(RequestError, match="at most 1000"):
        service.take_events([good] * 1001)


def test_no_time_is_a_refusal(counted: Path) -> None:
    service = build(counted, deadline=1e-9, wait=0.0)
    with pytest.raises(Overloaded):
        service.rank(PipelineQuery(user="u", candidates=("i",))).result(20)
    service.stop()


def test_options_that_make_no_sense() -> None:
    for wrong in ({"deadline": 0.0}, {"max_candidates": 0}, {"cache_bytes": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            ServiceOptions(**wrong)


def test_statistics_of_a_stream_are_those_that_prepare_counted(counted: Path) -> None:
    """Through the service: the test part, request by request and event by event, statistics and all."""
    bundle = load_bundle(counted)
    data, store = PreparedData.load(Path(bundle.config.data)), SQLiteStore(":memory:")
    start, decoder = data.manifest.split.test_start, Decoder(Path(bundle.config.data), data.manifest)
    service = RankingService(bundle, store=store, options=ServiceOptions(deadline=20.0), until=start)
    model = bundle.model()
    builder = data.builder(bundle.config.sequence, bundle.config.model.search)
    judged = predict(model, Loader(builder, data.part(builder, "test"), LoaderConfig(shuffle=False)), data)
    t, compared = data.timelines, 0
    order = np.lexsort((judged.exposure, judged.request, builder.request_time[judged.exposure]))
    for places in np.split(order, np.flatnonzero(np.diff(judged.request[order])) + 1):
        rows = judged.exposure[places]
        user = str(data.users.ids[int(judged.user[places[0]])])
        events = events_of(t, rows, user=user, items=data.items, decoder=decoder)
        names = [feature.name for feature in data.manifest.spec.of("exposure")]
        request = PipelineQuery(
            user=user,
            candidates=tuple(event.item for event in events),
            time=int(builder.request_time[rows[0]]),
            context={name: [event.context.get(name) for event in events] for name in names},
        )
        served = {place.item: place.scores for place in service.rank(request).result(20).places}
        for place, event in zip(places.tolist(), events, strict=True):
            for task, score in judged.scores.items():
                assert served[event.item][task] == pytest.approx(score[place], abs=1e-5, rel=1e-5)
                compared += 1
        assert service.take_events(events) == len(events)
    assert compared > 200
    before = service.rank(request).result(20)
    service.swap(bundle)  # counts anew from the store
    after = service.rank(request).result(20)
    assert {p.item: p.value for p in after.places} == pytest.approx({p.item: p.value for p in before.places}, abs=1e-5)
    service.stop()


def test_a_restart_counts_what_came(counted: Path, tmp_path: Path) -> None:
    """Events of an item that came while serving, too."""
    bundle = load_bundle(counted)
    request = PipelineQuery(user="u", candidates=("new", "nothing"), time=1_790_000_100)

    def start() -> RankingService:
        store = SQLiteStore(tmp_path / "events.sqlite")
        return RankingService(bundle, store=store, options=ServiceOptions(deadline=20.0))

    def values(service: RankingService) -> dict[str, float]:
        return {place.item: place.value for place in service.rank(request).result(20).places}

    service = start()
    service.put_items([Item(id="new", features={"length": 20.0})])
    before = values(service)
    for turn in range(5):
        service.take_events([Event(user="u", item="new", time=1_790_000_000 + turn, actions={"click": True})])
    after = values(service)
    service.stop()
    again = start()
    assert after["new"] != pytest.approx(before["new"], abs=1e-6)
    assert values(again) == pytest.approx(after, abs=1e-6)
    again.stop()


def test_a_swap_that_fails_leaves_the_service_as_it_was(service: RankingService, tmp_path: Path) -> None:
    version, service.data = service.version, tmp_path
    with pytest.raises(DataError):
        service.swap(service.deployed.bundle)
    assert service.version == version
    assert service.take_events([Event(user="u", item="i", time=1)]) == 1
    assert service.rank(PipelineQuery(user="u", candidates=("i",), time=2)).result(20).num_history == 1
    with pytest.raises(RequestError, match="finite"):
        service.rank(PipelineQuery(user="u", candidates=("i",), value={"click": float("nan")}))


def test_a_user_whose_events_were_cut_is_shown_as_the_model_sees_them(counted: Path) -> None:
    bundle, shown = load_bundle(counted), []
    events = [Event(user="new", item=f"i{n}", time=10 + n, actions={"click": n % 2 == 0}) for n in range(800)]
    for size in (300, 4000):
        store = SQLiteStore(":memory:", max_events=size)
        service = RankingService(bundle, store=store, options=ServiceOptions(deadline=20.0))
        service.take_events(events)
        shown.append(service.user("new"))
        service.stop()
    assert shown[0] == shown[1]
    assert shown[0]["exposures"] == 800
