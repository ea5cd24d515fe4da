"""Who is let in, what the start refuses, and what tells a balancer that a service can't rank any more."""

import asyncio
import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.types import ASGIApp, Message

from genrank.artifacts.bundle import load_bundle
from genrank.cli import main
from genrank.errors import ConfigError, GenRankError
from genrank.inference.sqlite_store import SQLiteStore
from genrank.inference.stores import open_store
from genrank.server.app import build_app
from genrank.server.batcher import Stopped
from genrank.server.log_lines import log_as_json
from genrank.server.query import PipelineQuery
from genrank.server.ranking_service import RankingService
from genrank.server.run import Listening, read_token
from genrank.server.service_options import ServiceOptions


@pytest.fixture
def service(counted: Path) -> Iterator[RankingService]:
    made = RankingService(
        load_bundle(counted), store=SQLiteStore(":memory:"), options=ServiceOptions(deadline=20.0, threads=0)
    )
    yield made
    made.stop()


def get(app: ASGIApp, path: str, **headers: str) -> tuple[int, dict[str, str], Any]:
    """Status, headers and body of a GET, without a server."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "query_string": b"",
             "headers": pairs, "client": ("10.0.0.7", 1), "root_path": ""}  # fmt: skip
    asyncio.run(app(scope, receive, send))
    answered = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    body = b"".join(message.get("body", b"") for message in sent[1:])
    return sent[0]["status"], answered, json.loads(body) if body.startswith(b"{") else body


def test_a_batcher_that_dies_is_seen_and_nobody_waits_for_it(
    service: RankingService, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = build_app(service)
    assert get(app, "/health/ready")[0] == 200

    def ends(batch: Any) -> Any:
        raise SystemExit("the work has ended the thread")

    monkeypatch.setattr(service.stage._batcher, "_work", ends)
    with pytest.raises(Stopped, match="ask another instance"):
        service.rank(PipelineQuery(user="u", candidates=("i1",))).result(20)
    with pytest.raises(Stopped, match="ask another instance"):
        service.rank(PipelineQuery(user="u", candidates=("i1",)))
    status, headers, body = get(app, "/health/ready")
    assert status == 503
    assert headers["retry-after"]
    assert "ranking: the worker thread has ended: SystemExit: the work has ended the thread" in body["error"]
    assert get(app, "/health/live")[0] == 200
    assert "the work has ended the thread" in caplog.text


def test_what_the_log_says_of_a_thread_that_dies(capsys: pytest.CaptureFixture[str]) -> None:
    names = ("genrank", "genrank.server", "uvicorn", "asyncio")
    before = [(log.handlers, log.level, log.propagate) for log in map(logging.getLogger, names)]
    hook = threading.excepthook
    try:
        log_as_json()
        thread = threading.Thread(target=lambda: 1 / 0, name="genrank-follower")
        thread.start()
        thread.join()
    finally:
        threading.excepthook = hook
        for log, (handlers, level, propagate) in zip(map(logging.getLogger, names), before, strict=True):
            log.handlers, log.level, log.propagate = handlers, level, propagate
    line = json.loads(capsys.readouterr().err)
    assert line["message"] == "the thread genrank-follower has ended"
    assert "ZeroDivisionError" in line["traceback"]


def test_a_refusal_names_its_scheme_and_takes_it_in_any_case(service: RankingService) -> None:
    app = build_app(service, token="secret")
    for given in (
        {},
        {"authorization": "secret"},
        {"authorization": "Bearer secrets"},
        {"authorization": "Basic secret"},
    ):
        status, headers, _ = get(app, "/openapi.json", **given)
        assert (status, headers["www-authenticate"]) == (401, "Bearer")
    for scheme in ("Bearer", "bearer", "BEARER", "Bearer  "):
        status, _, body = get(app, "/openapi.json", authorization=f"{scheme} secret")
        assert status == 200
        assert "secret" not in json.dumps(body)


@pytest.mark.parametrize("token", ["secret\n", "two words", " ", "\t", "clé", "a\x00b"])
def test_a_token_that_no_header_can_carry_is_refused(
    token: str, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match="openssl rand"):
        Listening(token=token)
    if "\x00" not in token:
        monkeypatch.setenv("GENRANK_TOKEN", token)
        assert main(["serve", str(run)]) == 2
        said = capsys.readouterr().err
        assert "the token has a space" in said
        assert len(said.strip().splitlines()) == 1
        assert token.strip() in ("", "a") or token.strip() not in said


def test_a_token_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "token"
    for written, read in ((b"secret", "secret"), (b"secret\n", "secret"), (b"secret\r\n", "secret"), (b"s\n\n", "s\n")):
        file.write_bytes(written)
        assert read_token("", file, "of the environment") == read
    assert read_token("", None, "of the environment") == "of the environment"
    assert read_token("flag", None, "of the environment") == "flag"
    assert "secret" not in repr(Listening(token="secret"))
    for wrong in (b"", b"\n", b"x" * 5000):
        file.write_bytes(wrong)
        with pytest.raises(ConfigError, match="write one there"):
            read_token("", file, "")
    with pytest.raises(ConfigError, match="give a file that can be read"):
        read_token("", tmp_path / "none", "")
    with pytest.raises(ConfigError, match="given twice"):
        read_token("flag", file, "")


@pytest.mark.parametrize(
    "address",
    [
        "redis://:s3cret@127.0.0.1:port/0",
        "redis://user:s3cret@127.0.0.1:99999999/0",
        "redis://:s3/cret@127.0.0.1:1/0",
        "redis://:s3#cret@127.0.0.1:1/0",
        "redis://:s3cret",
        "redis://:s3c@ret@127.0.0.1:port",
        "redis://127.0.0.1:port/0?password=s3cret",
        "redis://user:s3cret@[::1/0",
        "http://user:s3cret@127.0.0.1",
        "redis:/user:s3cret@127.0.0.1",
        "user:s3cret@127.0.0.1:6379/0",
        "redis://user:s3cret@127.0.0.1:1/0",
        "redis://user:s3cret@127.0.0.1:1/0?unknown=s3cret",
    ],
)
@pytest.mark.redis
def test_no_message_shows_the_password_of_a_store(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(GenRankError) as problem:
        open_store(address)
    for part in ("s3", "cret", "s3c", "ret@"):
        assert part not in str(problem.value)
    assert problem.value.__suppress_context__ or problem.value.__context__ is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "setting",
    ["wait=nan", "wait=-1.0", "wait=inf", "wait=0.5", "deadline=nan", "deadline=inf", "deadline=-1.0", "deadline=0.0",
     "deadline=1e300", "deadline=1e9", "threads=-1", "threads=100000", "threads=1.5", "threads=true", "deadline=true",
     "cache_bytes=-1", "cache_bytes=1e99", "decoded_bytes=nan", "max_candidates=0", "max_candidates=99999999999999999",
     "max_events=-1", "max_items=1.5", "batch_candidates=0", "values.x.click=nan", "values.x.click=inf",
     "values.x.click=true", f"threads={'9' * 400}"],
)  # fmt: skip
def test_a_setting_that_makes_no_sense_is_one_line(setting: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", str(run), "--port", "0", "--set", setting]) == 2
    said = capsys.readouterr().err.strip()
    assert len(said.splitlines()) == 1
    assert setting.partition("=")[0].split(".")[-1] in said
    assert len(said) < 700


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ({"host": ""}, "0.0.0.0 for all"),
        ({"host": "a b"}, "an address or a name"),
        ({"host": "a\n"}, "an address or a name"),
        ({"port": -1}, "at most 65535"),
        ({"port": True}, "at most 65535"),
        ({"max_body": 0}, "at least 1"),
        ({"max_body": True}, "whole number"),
        ({"max_body": 2**40}, "at most"),
        ({"trust_proxy": "proxy.local"}, "networks"),
    ],
)
def test_an_address_that_makes_no_sense(where: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Listening(**where)


def test_a_comma_behind_the_last_network_is_no_other_network() -> None:
    assert Listening(trust_proxy="10.0.0.1,").trust_proxy.startswith("10.0.0.1")
