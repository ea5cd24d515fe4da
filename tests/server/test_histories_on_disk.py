"""A service whose prepared histories stay on disk answers as one that has them in memory, number for number."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from genrank.artifacts.bundle import load_bundle
from genrank.data.tables import FeatureTable
from genrank.inference import collected
from genrank.inference.catalogue import Item
from genrank.inference.pasts import PastInMemory, PastOnDisk
from genrank.inference.sqlite_store import SQLiteStore
from genrank.inference.stages import StageCandidates
from genrank.inference.store import Event
from genrank.server.pipelines import RANK, RECOMMEND, RETRIEVE, pipelines_of
from genrank.server.query import PipelineQuery
from genrank.server.ranking_service import RankingService
from genrank.server.retrieval_service import RetrievalService
from genrank.server.served_pipeline import PipelineOutcome
from genrank.server.service_options import ServiceOptions

TIME = 1_790_000_000
USERS = ("u0000001", "u0000002", "u0000007", "nobody", "somebody")


@dataclass
class Services:
    ranking: RankingService
    retrieval: RetrievalService

    def answers(self) -> list[PipelineOutcome]:
        """Of all paths, for all users."""
        paths = pipelines_of(self.ranking.clock, ranking=self.ranking.stage, retrieval=self.retrieval.stage)
        items = [f"i{number:07d}" for number in range(1, 30)]
        asked = [(path, user) for user in USERS for path in (RETRIEVE, RANK, RECOMMEND)]
        return [
            paths[path]
            .submit(PipelineQuery(user=user, time=TIME, k=20, top_k=10, candidates=items if path == RANK else ()))
            .result(60)
            for path, user in asked
        ]


def started(run: Path, grank: Path, options: ServiceOptions) -> Services:
    ranking = RankingService(load_bundle(run), store=SQLiteStore(":memory:"), options=options)
    return Services(ranking, RetrievalService(grank, contexts=ranking.contexts, options=options, clock=ranking.clock))


@pytest.fixture
def both(run: Path, grank: Path) -> Iterator[tuple[Services, Services]]:
    """In this process, without HTTP: histories in memory, and on disk, where next to none of them are kept."""
    usual = ServiceOptions(deadline=60.0)
    services = (
        started(run, grank, usual),
        started(run, grank, ServiceOptions(deadline=60.0, max_exposures=0, timeline_bytes=5000)),
    )
    yield services
    for each in services:
        each.retrieval.stop()
        each.ranking.stop()


def assert_equal(one: StageCandidates, other: StageCandidates) -> None:
    assert list(one.ids) == list(other.ids)
    assert one.columns.keys() == other.columns.keys()
    for name, column in one.columns.items():
        np.testing.assert_array_equal(column, other.columns[name], err_msg=name)


def assert_alike(both: tuple[Services, Services]) -> None:
    for one, other in zip(*(services.answers() for services in both), strict=True):
        assert len(one.candidates)
        assert_equal(one.candidates, other.candidates)


def test_rankings_retrievals_and_recommendations_are_equal(both: tuple[Services, Services]) -> None:
    pasts = [services.ranking.deployed.context.histories.past for services in both]
    assert [type(past) for past in pasts] == [PastInMemory, PastOnDisk]
    assert_alike(both)
    for services in both:
        services.ranking.take_events(
            [Event(user=user, item="i0000003", time=TIME - 7, actions={"click": True}) for user in USERS]
        )
        services.ranking.put_items([Item(id="new", features={"topic": "1"})])
        services.ranking.catch_up()
        services.retrieval.catch_up()
    assert_alike(both)


def test_rankings_with_window_statistics_are_equal(counted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that finds events in its store looks which of them the prepared log has already."""
    monkeypatch.setattr(collected, "FEW", 0)
    bundle = load_bundle(counted)
    users = FeatureTable.load(Path(bundle.config.data), "user", bundle.manifest.spec).ids.to_pylist()[1:9]
    time = bundle.manifest.split.last_time + 100
    scores = []
    for options in (ServiceOptions(deadline=60.0), ServiceOptions(deadline=60.0, max_exposures=0)):
        store = SQLiteStore(":memory:")
        store.append([Event(user=user, item="i0000003", time=time - 7, actions={"click": True}) for user in users])
        service = RankingService(bundle, store=store, options=options)
        items = tuple(f"i{number:07d}" for number in range(1, 20))
        queries = [PipelineQuery(user=user, time=time, candidates=items) for user in (*users, "nobody")]
        scores.append([service.rank(query).result(60) for query in queries])
        service.stop()
    for one, other in zip(*scores, strict=True):
        assert one.places == other.places
    assert len({place.value for answer in scores[0] for place in answer.places}) > 50
