"""Stages and their pipeline: one call is the stages one by one, offline, for many requests at once and over HTTP."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from conftest_service import Running, serve  # noqa: F401 - a fixture
from genrank.errors import GenRankError, RequestError
from genrank.inference.gen_ranker import GenRanker
from genrank.inference.gen_retriever import GenRetriever
from genrank.inference.pipeline import Pipeline, PipelineAnswer
from genrank.inference.retrieval_engine import RetrieveRequest
from genrank.inference.stages import (
    RETRIEVAL,
    VALUE,
    OrderStage,
    RankingStage,
    RetrievalStage,
    StageCandidates,
    StageRequest,
    ordered,
)

TIME = 1_790_000_000
USERS = ("u0000001", "u0000002", "nobody")
K, TOP = 40, 10


@pytest.fixture(scope="module")
def ranker(run: Path) -> GenRanker:
    return GenRanker.load(run)


@pytest.fixture(scope="module")
def retriever(grank: Path) -> GenRetriever:
    return GenRetriever.load(grank)


@pytest.fixture(scope="module")
def pipeline(ranker: GenRanker, retriever: GenRetriever) -> Pipeline:
    return Pipeline([RetrievalStage(retriever.engine), RankingStage(ranker.engine), OrderStage()])


def request(ranker: GenRanker, user: str, k: int = K) -> StageRequest:
    return StageRequest(
        user=user,
        time=TIME,
        weights=ranker.bundle.config.value,
        top_k=TOP,
        retrieval=RetrieveRequest(user=user, time=TIME, k=k),
    )


def metrics_of(running: Running) -> dict[str, float]:
    """Samples of /metrics by name and labels."""
    page = urlopen(f"{running.url}/metrics").read().decode()
    return {
        sample.name
        + "{"
        + ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
        + "}": sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def picks(answer: PipelineAnswer) -> list[tuple[str, float]]:
    found = answer.candidates
    return list(zip(found.ids, np.round(found.columns[VALUE], 6).tolist(), strict=True))


def test_a_pipeline_is_its_stages_one_by_one(pipeline: Pipeline, ranker: GenRanker) -> None:
    requests = [request(ranker, user) for user in USERS]
    current = [StageCandidates.given(())] * len(requests)
    for stage in pipeline.stages:
        current = stage.run(requests, current)
    for answer, by_hand in zip(pipeline.run(requests), current, strict=True):
        assert list(answer.candidates.ids) == list(by_hand.ids)
        assert answer.candidates.user == by_hand.user
        assert answer.candidates.columns.keys() == by_hand.columns.keys()
        for name, column in by_hand.columns.items():
            np.testing.assert_array_equal(answer.candidates.columns[name], column)


def test_a_pipeline_is_the_calls_of_retriever_and_ranker(
    pipeline: Pipeline, ranker: GenRanker, retriever: GenRetriever
) -> None:
    for user in USERS:
        (answer,) = pipeline.run([request(ranker, user)])
        found = retriever.retrieve(user, k=K, time=TIME)
        ranking = ranker.rank(user, found.items, time=TIME)
        assert list(answer.candidates.ids) == [place.item for place in ranking.places[:TOP]]
        np.testing.assert_allclose(
            answer.candidates.columns[VALUE], [place.value for place in ranking.places[:TOP]], rtol=1e-6
        )
        scores = dict(zip(found.items, found.scores, strict=True))
        kept = [scores[item] for item in answer.candidates.ids]
        np.testing.assert_allclose(answer.candidates.columns[RETRIEVAL], kept, rtol=1e-6)
        assert [(step.stage, step.num_in, step.num_out) for step in answer.reports] == [
            ("retrieval", 0, K),
            ("ranking", K, K),
            ("order", K, TOP),
        ]


def test_many_requests_at_once_are_answered_as_each_alone(pipeline: Pipeline, ranker: GenRanker) -> None:
    requests = [request(ranker, user) for user in USERS]
    together = pipeline.run(requests)
    for one, answer in zip(requests, together, strict=True):
        (alone,) = pipeline.run([one])
        assert [name for name, _ in picks(alone)] == [name for name, _ in picks(answer)]
        np.testing.assert_allclose(alone.candidates.columns[VALUE], answer.candidates.columns[VALUE], rtol=1e-5)


def test_the_service_recommends_what_the_pipeline_does_offline(
    pipeline: Pipeline,
    ranker: GenRanker,
    grank: Path,
    serve: Callable[..., Running],  # noqa: F811 - the fixture
) -> None:
    with serve("--retriever", str(grank)).client() as client:
        for user in USERS:
            places = client.recommend(user, k=K, top_k=TOP, time=TIME)["ranking"]["places"]
            (answer,) = pipeline.run([request(ranker, user)])
            assert [place["item"] for place in places] == list(answer.candidates.ids)
            np.testing.assert_allclose(
                [place["value"] for place in places], answer.candidates.columns[VALUE], rtol=1e-5
            )


def test_metrics_tell_candidates_and_seconds_of_every_stage(
    grank: Path,
    serve: Callable[..., Running],  # noqa: F811 - the fixture
) -> None:
    running = serve("--retriever", str(grank))
    with running.client() as client:
        client.recommend(USERS[0], k=K, top_k=TOP, time=TIME)
        client.retrieve(USERS[0], k=7, time=TIME)
        client.rank(USERS[0], ["a", "b", "c"], time=TIME)
    found = metrics_of(running)
    expected = {"retrieval": (0, K + 7, 2), "ranking": (K + 3, K + 3, 2), "order": (K + 3, TOP + 3, 2)}
    for stage, (num_in, num_out, runs) in expected.items():
        assert found[f'genrank_stage_candidates_total{{end="in",stage="{stage}"}}'] == num_in
        assert found[f'genrank_stage_candidates_total{{end="out",stage="{stage}"}}'] == num_out
        assert found[f'genrank_stage_seconds_count{{stage="{stage}"}}'] == runs
    assert found['genrank_stage_waited_seconds_count{stage="retrieval"}'] == 2
    assert found['genrank_stage_waited_seconds_count{stage="ranking"}'] == 2


def test_a_ranking_stage_finds_items_by_id_whatever_the_rows_of_the_stage_before(ranker: GenRanker) -> None:
    ids = [str(name) for name in ranker.items.ids[1:9].to_pylist()]
    ranking = Pipeline([RankingStage(ranker.engine)])
    own = ranking.run([request(ranker, USERS[0])], [StageCandidates.given(ids)])[0].candidates
    other = StageCandidates(ids=ids, rows=np.arange(8) + 100)
    found = ranking.run([request(ranker, USERS[0])], [other])[0].candidates
    assert found.rows.tolist() == own.rows.tolist() == ranker.items.find(ids).tolist()
    for task in ranker.spec.tasks:
        np.testing.assert_array_equal(found.columns[task.name], own.columns[task.name])


def test_a_candidates_own_context_stays_its_own_behind_a_filter(ranker: GenRanker) -> None:
    ids = [str(name) for name in ranker.items.ids[1:9].to_pylist()]
    ages = [float(3**number) for number in range(8)]
    asked = replace(request(ranker, USERS[0]), context={"device": "phone", "item_age": ages})
    ranking = RankingStage(ranker.engine)
    (whole,) = ranking.run([asked], [StageCandidates.given(ids)])
    kept = StageCandidates.given(ids).take(np.array([6, 1, 4, 2])).take(np.array([2, 0, 1]))
    (some,) = ranking.run([asked], [kept])
    assert list(some.ids) == [ids[place] for place in (4, 6, 1)]
    for task in ranker.spec.tasks:
        np.testing.assert_allclose(some.columns[task.name], whole.columns[task.name][[4, 6, 1]], rtol=1e-5)
    with pytest.raises(RequestError, match="item_age has 7 values for 8 candidates"):
        ranking.run([replace(asked, context={"item_age": ages[:7]})], [kept])


@pytest.mark.parametrize(
    ("weight", "said"), [(1.0, r"score \(like\) of item 'b'"), (np.inf, r"score \(value\) of item 'a'")]
)
def test_no_order_is_made_of_what_is_no_number_and_columns_of_no_task_may_be_any(weight: float, said: str) -> None:
    like = np.array([0.1, np.nan if weight == 1.0 else 0.2])
    given = StageCandidates(ids=("a", "b"), rows=np.arange(2), columns={"like": like})
    with pytest.raises(GenRankError, match=said):
        ordered(given, {"like": weight})
    whole = given.with_columns({"like": np.array([0.1, 0.2]), RETRIEVAL: np.array([0.0, -np.inf])})
    assert list(ordered(whole, {"like": 1.0}).ids) == ["b", "a"]


def test_a_request_without_candidates_is_carried_through(pipeline: Pipeline, ranker: GenRanker) -> None:
    nothing = StageCandidates(ids=(), rows=np.zeros(0, np.int64))
    some = StageCandidates(ids=("a", "b"), rows=np.array([1, 2]))
    ranking = Pipeline([RankingStage(ranker.engine)])
    empty, full = ranking.run([request(ranker, USERS[0])] * 2, [nothing, some])
    assert len(empty.candidates) == 0
    assert set(full.candidates.columns) == {task.name for task in ranker.spec.tasks}


def test_equal_values_stay_in_the_order_in_which_they_came() -> None:
    columns = {"click": np.array([0.2, 0.5, 0.2, 0.5]), "like": np.array([0.0, 0.0, 0.0, 1.0])}
    given = StageCandidates(ids=("a", "b", "c", "d"), rows=np.arange(4), columns=columns)
    assert list(ordered(given, {"click": 1.0}).ids) == ["b", "d", "a", "c"]
    assert list(ordered(given, {"click": 1.0, "like": -1.0}, top_k=3).ids) == ["b", "a", "c"]
    assert ordered(given, {"click": 1.0}).rows.tolist() == [1, 3, 0, 2]
