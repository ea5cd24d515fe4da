"""Retrieval and recommendation over HTTP: a service in a process of its own, with a ranker and a retriever."""

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest_service import Running
from genrank.client import Client, ServiceError
from genrank.inference.gen_retriever import GenRetriever, build_index
from retrievers import trained

USER, TIME = "u0000001", 1_790_000_000
ALL = {"k": 1000, "time": TIME}
BAD = [
    ({"user": USER, "k": 0}, 422, "k: "),
    ({"user": USER, "k": 6000}, 400, "ask for at most 5000"),
    ({"user": USER, "without": {"topc": ["1"]}}, 400, "did you mean 'topic'"),
    ({"user": USER, "k": 5, "top": 3}, 422, "top"),
    ({"k": 5}, 422, "user"),
]


@pytest.fixture
def retriever(grank: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be changed."""
    shutil.copytree(grank, tmp_path / "grank")
    return tmp_path / "grank"


@pytest.fixture
def client(serve: Callable[..., Running], retriever: Path) -> Iterator[Client]:
    with serve("--retriever", str(retriever)).client() as client:
        yield client


def ids(answer: dict[str, Any]) -> list[str]:
    return [found["item"] for found in answer["items"]]


def test_what_the_service_retrieves_is_what_the_command_retrieves(client: Client, grank: Path) -> None:
    offline = GenRetriever.load(grank)
    for user in (USER, "u0000002", "nobody"):
        found = offline.retrieve(user, k=20, time=TIME)
        answer = client.retrieve(user, k=20, time=TIME)
        assert ids(answer) == list(found.items)
        assert [each["score"] for each in answer["items"]] == pytest.approx(found.scores, abs=1e-5)
        assert (answer["user_known"], answer["history"]) == (found.user_known, found.num_history)
        assert (answer["model"], answer["index"]) == (found.model_version, found.index_version)


def test_recommend_is_retrieve_then_rank_and_bad_requests_say_what_to_change(client: Client) -> None:
    retrieved = ids(client.retrieve(USER, k=40, time=TIME))
    ranked = client.rank(USER, retrieved, time=TIME, top_k=10)
    answer = client.recommend(USER, k=40, top_k=10, time=TIME)
    assert answer["retrieved"] == 40
    for name in ("user", "places", "model", "time", "history"):
        assert answer["ranking"][name] == ranked[name], name
    for body, status, said in BAD:
        for path in ("/v1/retrieve", "/v1/recommend"):
            with pytest.raises(ServiceError, match=said) as problem:
                client._call("POST", path, body)
            assert problem.value.status == status


def test_new_events_change_what_is_retrieved_and_are_not_retrieved_again(client: Client) -> None:
    before = client.retrieve(USER, **ALL)
    taken = ids(before)[0]
    client.send_events([{"user": USER, "item": taken, "time": TIME - 5, "actions": {"click": True}}])
    after = client.retrieve(USER, **ALL)
    assert set(ids(before)) - set(ids(after)) == {taken}
    assert after["history"] == min(before["history"] + 1, 16)
    assert taken in ids(client.retrieve(USER, exclude_seen=False, **ALL))


def test_items_come_change_and_go_while_serving(client: Client) -> None:
    everything = ids(client.retrieve("nobody", **ALL))
    client.put_items([{"item": "brand-new", "features": {"topic": "1"}}])
    assert set(ids(client.retrieve("nobody", **ALL))) == {*everything, "brand-new"}
    client.put_items([{"item": "brand-new", "available": False}, {"item": everything[0], "available": False}])
    assert set(ids(client.retrieve("nobody", **ALL))) == set(everything[1:])
    client.put_items([{"item": everything[0]}])  # back, with features unknown
    assert set(ids(client.retrieve("nobody", **ALL))) == set(everything)


def test_deleted_items_stay_deleted_after_a_restart(serve: Callable[..., Running], retriever: Path) -> None:
    first = serve("--retriever", str(retriever))
    with first.client() as client:
        everything = ids(client.retrieve("nobody", **ALL))
        client.put_items([{"item": everything[0], "available": False}])
    assert first.stop() == 0
    with serve("--retriever", str(retriever)).client() as client:
        assert ids(client.retrieve("nobody", **ALL)) == everything[1:]


def test_another_index_is_picked_up_without_a_pause(
    client: Client, retriever: Path, data: Path, tmp_path: Path
) -> None:
    before = client.retrieve(USER, k=3, time=TIME)
    other = trained(data, tmp_path / "other", "--recipe", "grank-small", "--seed", "5")
    shutil.copytree(other / "bundle", retriever / "bundle", dirs_exist_ok=True)
    assert client.retrieve(USER, k=3, time=TIME)["index"] == before["index"]  # no index of the new model yet
    build_index(retriever)
    until = time.monotonic() + 30
    while (answer := client.retrieve(USER, k=3, time=TIME))["index"] == before["index"] and time.monotonic() < until:
        time.sleep(0.1)
    assert answer["model"] != before["model"]
    assert ids(answer) == list(GenRetriever.load(retriever).retrieve(USER, k=3, time=TIME).items)


def test_without_a_retriever_there_are_no_such_routes(serve: Callable[..., Running]) -> None:
    with serve().client() as client, pytest.raises(ServiceError) as problem:
        client.retrieve(USER)
    assert problem.value.status == 404
