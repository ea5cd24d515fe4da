"""The service's log: one JSON object per line on stderr, for requests and errors, including uvicorn's."""

import json
import logging
import sys
import threading
from datetime import UTC, datetime
from typing import Any


class JsonLines(logging.Formatter):
    """`time`, `level` and `message`, or instead of the message the fields given as `extra={"fields": {…}}`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {"time": time, "level": record.levelname.lower()}
        line |= getattr(record, "fields", None) or {"message": record.getMessage()}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def log_as_json() -> None:
    """Log the service, uvicorn, and exceptions that end threads to stderr as JSON."""
    threading.excepthook = _died
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    levels = {"genrank": logging.WARNING, "genrank.server": logging.INFO}
    levels |= {"uvicorn": logging.WARNING, "asyncio": logging.WARNING}
    for name, level in levels.items():
        log = logging.getLogger(name)
        log.handlers = [] if name == "genrank.server" else [handler]  # its lines go up to genrank's
        log.setLevel(level)
        log.propagate = name == "genrank.server"


def _died(about: threading.ExceptHookArgs) -> None:
    name = "unknown" if about.thread is None else about.thread.name
    problem = about.exc_value
    logging.getLogger("genrank.server").critical("the thread %s has ended", name, exc_info=problem)
