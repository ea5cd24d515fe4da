import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from forked_commands import ForkedCommand
from genrank.client import Client


@dataclass
class Running:
    """A service in a process of its own."""

    process: subprocess.Popen[bytes] | ForkedCommand
    url: str
    log: Path

    @property
    def said(self) -> list[str]:
        """Its lines on stderr until now."""
        return self.log.read_text().splitlines()

    def client(self, **options: object) -> Client:
        return Client(self.url, **options)

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(30)


def _started(command: list[str], log: Path, descriptors: int) -> subprocess.Popen[bytes] | ForkedCommand:
    if not descriptors:
        return ForkedCommand(command, log)
    limited = ["sh", "-c", f'ulimit -n {descriptors}; exec "$@"', "sh", sys.executable, "-m", "genrank", *command]
    with log.open("wb") as stderr:
        return subprocess.Popen(limited, stderr=stderr)


@pytest.fixture
def serve(run: Path, tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Starts `genrank serve` on a free port; stops it at the end."""
    started: list[Running] = []

    def start(*arguments: str, folder: Path = run, descriptors: int = 0) -> Running:
        options = ["--port", "0", "--store", str(tmp_path / "events.sqlite")]
        options += ["--set", "threads=1", "--set", "deadline=20.0", *arguments]
        log = tmp_path / f"service{len(started)}.log"
        process = _started(["serve", str(folder), *options], log, descriptors)
        running = Running(process, "", log)
        started.append(running)
        until = time.monotonic() + 60
        while not running.url and time.monotonic() < until and process.poll() is None:
            time.sleep(0.02)
            for line in running.said:
                if " on http://" in line:
                    running.url = line.split(" on ")[1].split(" ")[0]
        assert running.url, running.said
        while True:
            try:
                with running.client() as client:
                    client.ready()
                return running
            except OSError:
                assert time.monotonic() < until
                time.sleep(0.05)

    yield start
    for running in started:
        if running.process.poll() is None:
            running.process.kill()
        running.process.wait(30)
