"""The service's log is one JSON object a line, whoever wrote it."""

import json
import logging

import pytest

from genrank.server.log_lines import JsonLines, log_as_json


def line(**changes: object) -> dict[str, object]:
    record = logging.LogRecord("genrank.server", logging.WARNING, "file", 1, "the store %s", ("answers",), None)
    vars(record).update(changes)
    written = JsonLines().format(record)
    assert "\n" not in written
    return json.loads(written)


def test_prose_is_a_message_and_fields_stand_for_themselves() -> None:
    assert line().keys() == {"time", "level", "message"}
    assert (line()["level"], line()["message"]) == ("warning", "the store answers")
    assert line(fields={"path": "/v1/rank", "status": 200})["status"] == 200
    assert "message" not in line(fields={"path": "/v1/rank"})


def test_a_traceback_is_in_the_same_line() -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError as problem:
        found = line(exc_info=(ValueError, problem, problem.__traceback__))
    assert "two\nlines" in str(found["traceback"])


def test_every_logger_of_the_process_writes_json(capsys: pytest.CaptureFixture[str]) -> None:
    names = ("genrank", "genrank.server", "uvicorn", "uvicorn.error")
    before = {name: (log.handlers, log.level, log.propagate) for name in names if (log := logging.getLogger(name))}
    try:
        log_as_json()
        logging.getLogger("genrank.nn.backends").warning("slow")
        logging.getLogger("genrank.server").info("served")
        logging.getLogger("uvicorn.error").error("broken")
        said = [json.loads(each)["message"] for each in capsys.readouterr().err.splitlines()]
    finally:
        for name, (handlers, level, propagate) in before.items():
            log = logging.getLogger(name)
            log.handlers, log.level, log.propagate = handlers, level, propagate
    assert said == ["slow", "served", "broken"]
