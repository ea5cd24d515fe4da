"""What `genrank doctor` says of the machine."""

import json
import os
import subprocess
import sys

import pytest
from rich.console import Console

from genrank.cli import main
from genrank.cli.doctor import Rates, examine, thread_advice
from genrank.native import BuildError

WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


@pytest.fixture(autouse=True)
def _no_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genrank.cli.doctor.measure", lambda: Rates(100.0, 100.0))


def said() -> str:
    console = Console(width=300)
    with console.capture() as captured:
        console.print(examine())
    return captured.get()


def line(start: str) -> str:
    return next(row for row in said().splitlines() if start in row)


def test_built_kernels_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genrank.cli.doctor.build", lambda: None)
    assert "built for this processor" in line("C++ kernels")


def test_json_has_what_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["attention"]["native"].startswith("equals the plain one on cpu")
    assert found["attention"]["flex"].startswith("not used: ")
    assert found["gflops"] == {"fp32": 100.0, "bf16": 100.0}


def test_missing_kernels_are_shown_with_the_reason_and_what_it_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise BuildError("no C++ compiler found (install g++)")

    monkeypatch.setattr("genrank.cli.doctor.build", fail)
    shown = line("C++ kernels")
    assert "install g++" in shown
    assert "slower" in shown


@pytest.mark.parametrize(
    ("policy", "spins", "advice"),
    [
        (None, None, "idle threads spin"),
        ("ACTIVE", "1000", "idle threads spin"),
        ("passive", None, "idle threads sleep at once"),
        ("passive", "0", ""),
        ("PASSIVE", "1000", ""),
    ],
)
def test_advice_follows_how_idle_threads_wait(
    policy: str | None, spins: str | None, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in zip(WAITING, (policy, spins), strict=True):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    sentences = thread_advice()
    assert [sentence for sentence in sentences if sentence.startswith(advice)] == sentences
    assert bool(sentences) == bool(advice)


def test_the_command_lines_own_setting_needs_no_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    untouched = {name: value for name, value in os.environ.items() if name not in WAITING}
    code = f"import os, genrank.cli; print(*(os.environ[name] for name in {WAITING}))"
    set_there = subprocess.run([sys.executable, "-c", code], env=untouched, capture_output=True, text=True, check=True)
    for name, value in zip(WAITING, set_there.stdout.split(), strict=True):
        monkeypatch.setenv(name, value)
    assert thread_advice() == []
