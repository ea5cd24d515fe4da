"""The command `genrank` in a process of its own, forked from one that has imported torch: a start costs no imports."""

import os
import signal
import subprocess
import tempfile
from multiprocessing import get_context
from pathlib import Path

from genrank.cli import main

FORKS = get_context("forkserver")  # for multiprocessing
FORKS.set_forkserver_preload(
    ["torch", "genrank.cli.command_line", "genrank.runs.train", "genrank.server.app", "genrank.inference.published"]
)


class ForkedCommand:
    """As `subprocess.Popen([sys.executable, "-m", "genrank", *arguments], stderr=log)` to whoever watches it."""

    def __init__(self, arguments: list[str], log: Path):
        self._process = FORKS.Process(target=_run, args=(arguments, str(log), dict(os.environ)), daemon=True)
        log.touch()
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("genrank", timeout or 0.0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _run(arguments: list[str], log: str, environment: dict[str, str]) -> None:
    with open(log, "wb") as stderr:
        os.dup2(stderr.fileno(), 2)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # it is remembered, from another environment
    signal.signal(signal.SIGINT, signal.default_int_handler)
    raise SystemExit(main(arguments))
