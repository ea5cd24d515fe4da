"""`genrank store`: what is in a store, what a model can't read of it, and how that is repaired."""

import json
from pathlib import Path
from typing import Any

import pytest

from genrank.artifacts.bundle import load_bundle
from genrank.cli import main
from genrank.inference.catalogue import Item
from genrank.inference.sqlite_store import SQLiteStore
from genrank.inference.store import Event

GOOD = Event(user="u", item="a", time=5, actions={"click": True})
ODD = Event(user="u", item="b", time=6, actions={"click": "perhaps"}, context={"of another schema": 1})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    store = SQLiteStore(tmp_path / "s.sqlite")
    store.append([GOOD, ODD, Event(user="v", item="a", time=7)])
    store.put_items([Item(id="i"), Item(id="j", features={"of another schema": 1, "topic": {"a": 1}})])
    store._run("UPDATE events SET body = '[' WHERE user = 'v'")
    store.close()
    return tmp_path / "s.sqlite"


def asked(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main(["store", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_store_is_listed_and_shown(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed = asked(capsys, str(path), "list", "--limit", "1")
    assert listed == {"users": 2, "events": 3, "items": 2, "some_users": {"u": 2}, "some_items": ["i"]}
    shown = asked(capsys, str(path), "show", "--user", "u", "--item", "j")
    assert [event["key"] for event in shown["u"]] == ["5/a", "6/b"]
    assert shown["items"][0]["item"] == "j"
    assert main(["store", str(path), "list"]) == 0
    assert "events: 3" in capsys.readouterr().out.splitlines()


def test_what_a_model_can_not_read_is_named_and_repaired(
    path: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unreadable = asked(capsys, str(path), "check")["unreadable"]
    assert [(each["kind"], each["user"], each["id"]) for each in unreadable] == [("event", "v", "7/a")]
    unreadable = asked(capsys, str(path), "check", "--model", str(run))["unreadable"]
    assert [(each["kind"], each["id"]) for each in unreadable] == [("event", "6/b"), ("item", "j"), ("event", "7/a")]
    assert "click of item 'b' must be true, false or null" in unreadable[0]["reason"]
    assert asked(capsys, str(path), "repair", "--model", str(run)) == {"mended": 2, "deleted": 1}
    assert asked(capsys, str(path), "check", "--model", str(run)) == {"unreadable": []}
    shown = asked(capsys, str(path), "show", "--user", "u", "--item", "j")
    assert [event["actions"] for event in shown["u"]] == [{"click": True}, {}]
    assert shown["u"][1]["context"] == {"of another schema": 1}  # is of no harm
    assert shown["items"][0]["features"] == {"of another schema": 1}


def test_events_users_and_items_are_deleted(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert asked(capsys, str(path), "delete", "--user", "u", "--event", "6/b", "--event", "none") == {"deleted": 1}
    assert asked(capsys, str(path), "delete", "--user", "u", "--item", "i") == {"deleted": 2}
    assert asked(capsys, str(path), "list")["some_users"] == {"v": 1}


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (["delete"], "give --user or --item"),
        (["show", "--event", "5/a"], "give --user or --item"),
        (["delete", "--user", "u", "--user", "v", "--event", "5/a"], "exactly one --user"),
        (["repair"], "give the --model"),
    ],
)
def test_questions_that_make_no_sense_are_refused(
    path: Path, arguments: list[str], remedy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["store", str(path), *arguments]) == 2
    said = capsys.readouterr().err
    assert remedy in said
    assert said.count("\n") == 1


def test_a_file_in_use_can_be_looked_at_and_not_changed(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    service = SQLiteStore(path)
    assert asked(capsys, str(path), "list")["events"] == 3
    assert main(["store", str(path), "delete", "--user", "u"]) == 2
    assert "wait until it ends, or stop it" in capsys.readouterr().err
    service.close()
    assert main(["store", str(path.with_name("none.sqlite")), "list"]) == 2
    assert not path.with_name("none.sqlite").exists()


def test_a_model_serves_what_it_can_read_of_a_store(path: Path, run: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It starts, ranks the user whose event it can't read, swaps, and names what is left out."""
    from genrank.server.query import PipelineQuery
    from genrank.server.ranking_service import RankingService
    from genrank.server.service_options import ServiceOptions

    service = RankingService(load_bundle(run), store=SQLiteStore(path), options=ServiceOptions(deadline=20.0))
    request = PipelineQuery(user="u", candidates=("a", "b"), time=10)
    assert service.rank(request).result().num_history == 1
    assert service.rank(PipelineQuery(user="v", candidates=("a",), time=10)).result().num_history == 0
    service.swap(load_bundle(run))
    assert service.rank(request).result().num_history == 1
    assert service.deployed.context.left_out.counts == {"event": 1, "item": 1}
    assert service.store.left_out.counts == {"event": 1}
    assert "the event '6/b' of user 'u' is left out: actions: click of item 'b' must be true" in caplog.text
    assert "the item 'j' is left out" in caplog.text
    service.stop()
