import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from genrank.client import Client


@dataclass
class Running:
    """A service in a process of its own."""

    process: subprocess.Popen[str]
    url: str
    said: list[str]

    def client(self, **options: object) -> Client:
        return Client(self.url, **options)

    def stop(self) -> int:
        self.process.terminate()
        code = self.process.wait(30)
        assert self.process.stderr is not None
        self.said += self.process.stderr.read().splitlines()
        return code


@pytest.fixture
def serve(run: Path, tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Starts `genrank serve` on a free port; stops it at the end."""
    started: list[Running] = []

    def start(*arguments: str, folder: Path = run) -> Running:
        command = [sys.executable, "-m", "genrank.cli", "serve", str(folder), "--port", "0"]
        command += [
            "--store",
            str(tmp_path / "events.sqlite"),
            "--set",
            "threads=1",
            "--set",
            "deadline=20.0",
            *arguments,
        ]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ})
        running = Running(process, "", [])
        started.append(running)
        assert process.stderr is not None
        until = time.monotonic() + 60
        while not running.url and time.monotonic() < until and process.poll() is None:
            if select.select([process.stderr], [], [], 1)[0]:
                running.said.append(process.stderr.readline().rstrip())
                if " on http://" in running.said[-1]:
                    running.url = running.said[-1].split(" on ")[1].split(" ")[0]
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
        if running.process.stderr is not None:
            running.process.stderr.close()
