"""Any list of stages is a pipeline of the service: further stages, with and without a queue, over HTTP."""

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest
import uvicorn
from prometheus_client.parser import text_string_to_metric_families

from genrank.artifacts.bundle import load_bundle
from genrank.client import Client, ServiceError
from genrank.errors import RequestError
from genrank.inference.pipeline import Pipeline
from genrank.inference.retrieval_engine import RetrieveRequest
from genrank.inference.sqlite_store import SQLiteStore
from genrank.inference.stages import RETRIEVAL, VALUE, OrderStage, Stage, StageCandidates, StageRequest
from genrank.inference.store import Event
from genrank.server.app import build_app
from genrank.server.batcher import Overloaded
from genrank.server.deployment import rank_answer
from genrank.server.opened_index import retrieve_answer
from genrank.server.pipelines import RANK, RECOMMEND, RETRIEVE, pipelines_of
from genrank.server.query import PipelineQuery
from genrank.server.queued_stage import QueuedStage
from genrank.server.ranking_service import RankingService
from genrank.server.retrieval_service import RetrievalService
from genrank.server.served_pipeline import PipelineOutcome, ServedPipeline
from genrank.server.service_options import ServiceOptions

TIME = 1_790_000_000
USERS = ("u0000001", "u0000002", "nobody")
K, TOP = 40, 10


@dataclass
class Services:
    ranking: RankingService
    retrieval: RetrievalService

    def pipeline(self, *stages: QueuedStage | Stage) -> ServedPipeline:
        return ServedPipeline(stages, clock=self.ranking.clock)

    def recommending(self, *between: QueuedStage | Stage) -> ServedPipeline:
        return self.pipeline(self.retrieval.stage, *between, self.ranking.stage, OrderStage())


@dataclass
class Each:
    """A stage that does something with the candidates of each request."""

    name: str
    does: Callable[[StageRequest, StageCandidates], StageCandidates]
    batches: list[int] = field(default_factory=list)

    def run(self, requests: Sequence[StageRequest], candidates: Sequence[StageCandidates]) -> list[StageCandidates]:
        self.batches.append(len(requests))
        return [self.does(*pair) for pair in zip(requests, candidates, strict=True)]


class NotShown:
    """A filter: leaves out what the user has in the history that a stage before has read, liked or not."""

    name = "not_shown"

    def run(self, requests: Sequence[StageRequest], candidates: Sequence[StageCandidates]) -> list[StageCandidates]:
        return [each.take(np.flatnonzero([name not in shown(each) for name in each.ids])) for each in candidates]


def shown(candidates: StageCandidates) -> set[str]:
    return {
        str(histories.catalogue.table.ids[row])
        for histories, history in candidates.histories.items()
        for row in history.timeline.item.tolist()
    }


@dataclass
class Model:
    """A model that is a stage, and asks for nothing but the user and the time."""

    stage: Stage

    __hash__ = object.__hash__

    def request(self, query: PipelineQuery, candidates: StageCandidates, *, time: int) -> StageRequest:
        return StageRequest(user=query.user, time=time)


def queued(stage: Stage, **options: Any) -> QueuedStage:
    model = Model(stage)
    given = {"cost": lambda _: 1.0, "batch_cost": 8.0, "wait": 0.0, "deadline": 60.0} | options
    return QueuedStage(stage.name, lambda: model, **given)


def every_other(_: StageRequest, candidates: StageCandidates) -> StageCandidates:
    """What a pre-ranker would do: half of the candidates go on."""
    return candidates.take(np.arange(0, len(candidates), 2))


@pytest.fixture
def services(run: Path, grank: Path) -> Iterator[Services]:
    """In this process, without HTTP."""
    options = ServiceOptions(deadline=60.0)
    ranking = RankingService(load_bundle(run), store=SQLiteStore(":memory:"), options=options)
    retrieval = RetrievalService(grank, contexts=ranking.contexts, options=options, clock=ranking.clock)
    yield Services(ranking, retrieval)
    retrieval.stop()
    ranking.stop()


@pytest.fixture
def over_http(services: Services) -> Iterator[Callable[[ServedPipeline], str]]:
    """Serves /v1/recommend with a pipeline; the address."""
    started: list[tuple[uvicorn.Server, threading.Thread]] = []

    def start(recommending: ServedPipeline) -> str:
        usual = pipelines_of(services.ranking.clock, ranking=services.ranking.stage, retrieval=services.retrieval.stage)
        app = build_app(services.ranking, services.retrieval, pipelines=usual | {RECOMMEND: recommending})
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan="off"))
        thread = threading.Thread(target=server.run)
        thread.start()
        started.append((server, thread))
        until = time.monotonic() + 30
        while not server.started:
            assert time.monotonic() < until
            time.sleep(0.01)
        host, port = server.servers[0].sockets[0].getsockname()
        return f"http://{host}:{port}"

    yield start
    for server, thread in started:
        server.should_exit = True
        thread.join(30)


def query(user: str = USERS[0], **changed: Any) -> PipelineQuery:
    return PipelineQuery(**{"user": user, "k": K, "time": TIME, "top_k": TOP} | changed)


def test_recommending_is_the_pipeline_of_the_same_stages(services: Services) -> None:
    deployed, opened = services.ranking.deployed, services.retrieval.opened
    whole = Pipeline([opened.stage, deployed.stage, OrderStage()])
    weights = deployed.bundle.config.value
    for user in USERS:
        served = services.recommending().submit(query(user)).result(60)
        wanted = RetrieveRequest(user=user, time=TIME, k=K)
        (answer,) = whole.run([StageRequest(user=user, time=TIME, weights=weights, top_k=TOP, retrieval=wanted)])
        assert list(served.candidates.ids) == list(answer.candidates.ids)
        for column in (VALUE, RETRIEVAL):
            np.testing.assert_array_equal(served.candidates.columns[column], answer.candidates.columns[column])
        steps = [step for report in served.reports.values() for step in report.stages]
        assert [(step.stage, step.num_in, step.num_out) for step in steps] == [
            (step.stage, step.num_in, step.num_out) for step in answer.reports
        ]


def test_all_stages_of_a_recommendation_see_the_same_events(services: Services) -> None:
    ranking = services.ranking

    def tell(_: StageRequest, candidates: StageCandidates) -> StageCandidates:
        ranking.take_events([Event(user="somebody", item="i00000001", time=TIME - 10)])
        return candidates

    meanwhile = services.recommending(Each("meanwhile", tell))
    assert rank_answer(meanwhile.submit(query("somebody")).result(60)).num_history == 0
    assert rank_answer(services.recommending().submit(query("somebody")).result(60)).num_history == 1


def test_further_stages_are_put_into_the_list_and_work_over_http(
    services: Services, over_http: Callable[[ServedPipeline], str]
) -> None:
    """A filter without a queue, and a pre-ranker with one: what is shown is what they leave, in the ranker's order."""
    preranking = queued(Each("preranking", every_other))
    url = over_http(services.recommending(NotShown(), preranking))
    with Client(url) as client:
        found = [each["item"] for each in client.retrieve(USERS[0], k=K, time=TIME, exclude_seen=False)["items"]]
        had = {each["item"] for each in client.user(USERS[0])["window"]}
        assert had & set(found)  # else the filter has nothing to do
        left = [item for item in found if item not in had][::2]
        ranked = client.rank(USERS[0], left, time=TIME, top_k=TOP)["places"]
        answer = client.recommend(USERS[0], k=K, top_k=TOP, time=TIME, exclude_seen=False)
    preranking.stop()
    assert answer["retrieved"] == K
    assert answer["ranking"]["places"] == ranked
    page = urlopen(f"{url}/metrics").read().decode()
    counts = {
        (sample.labels["stage"], sample.labels["end"]): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == "genrank_stage_candidates_total"
    }
    kept = K - len(had & set(found))
    assert counts["not_shown", "in"] == K
    assert counts["not_shown", "out"] == counts["preranking", "in"] == kept
    assert counts["preranking", "out"] == len(left)


def test_candidates_keep_their_own_context_behind_a_preranker(services: Services) -> None:
    items = [str(name) for name in services.ranking.deployed.context.catalogue.table.ids[1:9]]
    asked = query(candidates=tuple(items), context={"item_age": [float(3**n) for n in range(8)]}, top_k=0)
    preranking = queued(Each("preranking", every_other))
    ranking = services.pipeline(services.ranking.stage, OrderStage()).submit(asked).result(60).candidates
    half = services.pipeline(preranking, services.ranking.stage, OrderStage()).submit(asked).result(60).candidates
    preranking.stop()
    expected = dict(zip(ranking.ids, ranking.columns[VALUE].tolist(), strict=True))
    assert sorted(half.ids) == sorted(items[::2])
    assert half.columns[VALUE].tolist() == pytest.approx([expected[item] for item in half.ids], rel=1e-5)


def test_a_filter_that_leaves_nothing_ends_the_pipeline(
    services: Services, over_http: Callable[[ServedPipeline], str]
) -> None:
    nothing = Each("nothing", lambda _, candidates: candidates.take(np.zeros(0, np.int64)))
    with Client(over_http(services.recommending(nothing))) as client:
        answer = client.recommend(USERS[0], k=K, time=TIME)
    assert (answer["retrieved"], answer["ranking"]) == (K, None)


def test_what_a_later_stage_refuses_is_heard(services: Services, over_http: Callable[[ServedPipeline], str]) -> None:
    with pytest.raises(RequestError, match="there is no task 'clck'"):
        services.recommending().submit(query(tasks=("clck",))).result(60)
    late = queued(Each("late", lambda _, candidates: candidates), deadline=1e-9)
    with pytest.raises(Overloaded):
        services.recommending(late).submit(query()).result(60)
    with Client(over_http(services.recommending(late)), retries=0) as client:
        with pytest.raises(ServiceError) as problem:
            client.recommend(USERS[0], k=K, time=TIME)
        assert problem.value.status == 503
    late.stop()


def test_a_stage_that_fails_on_one_request_fails_no_other(services: Services) -> None:
    def fails(request: StageRequest, candidates: StageCandidates) -> StageCandidates:
        if request.user == "nobody":
            raise RuntimeError("on purpose")
        return candidates

    pipeline = services.recommending(Each("fails", fails))
    good, bad = pipeline.submit(query()), pipeline.submit(query("nobody"))
    assert len(good.result(60).candidates) == TOP
    with pytest.raises(RuntimeError, match="on purpose"):
        bad.result(60)


def test_pipelines_share_the_batches_of_a_queue(services: Services) -> None:
    slow, begun = threading.Event(), threading.Event()

    def waits(_: StageRequest, candidates: StageCandidates) -> StageCandidates:
        begun.set()
        slow.wait(30)
        return candidates

    shared = Each("shared", waits)
    queue = queued(shared)
    pipelines = [services.pipeline(queue), services.pipeline(queue, NotShown())]
    first = pipelines[0].submit(query(candidates=("a",)))
    assert begun.wait(30)
    others = [pipeline.submit(query(candidates=("a", "b"))) for pipeline in pipelines]
    slow.set()
    assert len(first.result(30).candidates) == 1
    assert [len(each.result(30).candidates) for each in others] == [2, 2]
    assert shared.batches == [1, 2]
    queue.stop()


def test_a_request_that_nobody_waits_for_is_not_worked_on(services: Services) -> None:
    slow, begun, users = threading.Event(), threading.Event(), list[str]()

    def waits(request: StageRequest, candidates: StageCandidates) -> StageCandidates:
        users.append(request.user)
        begun.set()
        slow.wait(30)
        return candidates

    queue = queued(Each("waits", waits))
    pipeline = services.pipeline(queue)
    first = pipeline.submit(query("first", candidates=("a",)))
    assert begun.wait(30)
    left, last = (pipeline.submit(query(user, candidates=("a",))) for user in ("left", "last"))
    assert left.cancel()
    slow.set()
    assert isinstance(first.result(30), PipelineOutcome)
    last.result(30)
    assert users == ["first", "last"]
    queue.stop()


def test_a_request_is_done_by_the_model_that_was_current_when_it_came() -> None:
    slow, begun = threading.Event(), threading.Event()

    def named(name: str) -> Model:
        def does(_: StageRequest, candidates: StageCandidates) -> StageCandidates:
            begun.set()
            slow.wait(30)
            return StageCandidates.given([name])

        return Model(Each("named", does))

    current = [named("old")]
    queue = QueuedStage("named", lambda: current[0], cost=lambda _: 1.0, batch_cost=8.0, wait=0.0, deadline=60.0)
    running: list[Future[Any]] = []

    def submit() -> None:
        given = StageCandidates.given(["a"])
        running.append(queue.submit(query(), given, time=TIME, followers=Pipeline([])))

    submit()
    assert begun.wait(30)
    submit()
    current[0] = named("new")
    submit()
    slow.set()
    assert [list(each.result(30).candidates.ids) for each in running] == [["old"], ["old"], ["new"]]
    queue.stop()


def test_an_answer_that_was_sent_takes_no_memory(services: Services) -> None:
    """Whatever the garbage collector does: a service's is busy with other objects for minutes."""
    pipeline = services.recommending()
    gc.collect()
    gc.disable()
    try:
        running = pipeline.submit(query())
        answered = weakref.ref(running.result(60))
        del running
        until = time.monotonic() + 10
        while answered() is not None and time.monotonic() < until:  # the queue's thread is about to let go of it
            time.sleep(0.01)
        assert answered() is None
    finally:
        gc.enable()


def test_lists_that_are_no_pipeline(services: Services) -> None:
    with pytest.raises(ValueError, match="not_shown is the first and has no queue"):
        services.pipeline(NotShown(), services.ranking.stage)
    with pytest.raises(ValueError, match="each of another name"):
        services.pipeline(services.ranking.stage, services.ranking.stage)
    with pytest.raises(ValueError, match="at least one"):
        services.pipeline()


def test_paths_have_the_stages_that_there_are(services: Services) -> None:
    clock, ranking, retrieval = services.ranking.clock, services.ranking.stage, services.retrieval.stage
    assert set(pipelines_of(clock, ranking=ranking)) == {RANK}
    whole = pipelines_of(clock, ranking=ranking, retrieval=retrieval)
    assert set(whole) == {RANK, RETRIEVE, RECOMMEND}
    found = retrieve_answer(whole[RETRIEVE].submit(query()).result(60))
    assert len(found.items) == K
