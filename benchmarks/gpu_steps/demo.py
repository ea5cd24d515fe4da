"""Step `demo`: does `genrank demo` give on a card what it gives on a CPU?

It runs twice from this clone, on the card and on the CPU of the same machine, side by side. What the demo needs beyond
torch, triton, numpy and safetensors, and this Python has not, comes from build/gpu_wheels/site.tar.xz, which
gpu_wheels.py makes. Figures agree where they differ by at most 3 deviations over the CPU's seeds: the card computes in
bf16 and draws other dropout, so that its run is one more seed.
"""

import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpu_steps.machine import ROOT, Clock, Sizes
from gpu_steps.report import Report

SITE = ROOT / "build" / "gpu_wheels" / "site.tar.xz"
# Mean and deviation over 3 seeds on a CPU: docs/accuracy.md, `genrank-demo` on the simulated feed.
DOCUMENTED = {"auc": 0.8024, "gauc": 0.7565}
DEVIATIONS = {"auc": 0.0010, "gauc": 0.0013}
DEVIATIONS_ALLOWED = 3
TASK = "click"
LAST_LINES = 12

# The command line, with a folder in which is looked last: folder, then the command.
COMMAND = "import sys; sys.path.append(sys.argv.pop(1)); from genrank.cli import main; sys.exit(main(sys.argv[1:]))"
# The way of `genrank demo` on a feed that is too small to learn from: folder, then settings of the feed.
MINIATURE = """
import sys
from pathlib import Path
from rich.console import Console
from genrank.cli.demo import simulate_with_progress
from genrank.cli.preparing import LogArguments, prepare_with_progress
from genrank.recipes import recipe
from genrank.runs.evaluate_ranking import evaluate_run
from genrank.runs.train import start_run, train
out, console = Path(sys.argv[1]), Console()
feed = out / "feed"
simulate_with_progress(feed, sys.argv[2:], console)
log = LogArguments(logs=[feed / "exposures"], schema=feed / "schema.toml")
prepare_with_progress(log, out=out / "data", console=console)
start_run(out / "data", recipe("genrank-demo"), out / "run")
train(out / "run", console)
evaluate_run(out / "run", report=False)
"""


@dataclass
class DemoRun:
    """One of the two."""

    device: str
    folder: Path
    process: subprocess.Popen[bytes]
    began: float = field(default_factory=time.monotonic)
    seconds: float = 0.0

    @property
    def said(self) -> list[str]:
        """The last lines of its output."""
        return (self.folder / "output.txt").read_text(errors="replace").splitlines()[-LAST_LINES:]


def run(report: Report, sizes: Sizes, clock: Clock, *, workers: int) -> None:
    """A row per run, then one per figure that is compared."""
    del workers
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if SITE.exists() and not sizes.tiny:
            with tarfile.open(SITE) as archive:
                archive.extractall(folder, filter="data")
        devices = (clock.device.type, "cpu" if clock.device.type == "cuda" else "cpu again")
        runs = [_start(folder, device, sizes) for device in devices]
        try:
            figures = dict(_finished(report, runs))
        finally:
            for one in runs:
                one.process.kill()
    first, second = devices
    if first in figures:
        _compare(report, figures[first], figures.get(second, DOCUMENTED), second if second in figures else "documented")


def _start(whole: Path, device: str, sizes: Sizes) -> DemoRun:
    folder = whole / device.replace(" ", "-")
    folder.mkdir()
    command = [sys.executable, "-c", COMMAND, str(whole / "site"), "demo", "--out", str(folder / "demo")]
    if sizes.tiny:
        command = [sys.executable, "-c", MINIATURE, str(folder / "demo"), *sizes.demo_settings]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    if device != "cuda":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    with (folder / "output.txt").open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT, cwd=folder)
    return DemoRun(device, folder, process)


def _finished(report: Report, runs: list[DemoRun]) -> Any:
    """(device, figures of the click task) of the runs as they end; those that the budget ends are named."""
    waiting = list(runs)
    while waiting and report.left > 0:
        for one in [one for one in waiting if one.process.poll() is not None]:
            waiting.remove(one)
            one.seconds = time.monotonic() - one.began
            found = one.folder / "demo" / "run" / "evaluation.json"
            if one.process.returncode or not found.exists():
                report.error(f"demo on {one.device}", one.said)
                continue
            click = json.loads(found.read_text())["tasks"][TASK]
            figures = {name: number(click[name]) for name in DEVIATIONS}
            report.row(case="run", device=one.device, seconds=one.seconds, **figures)
            yield one.device, figures
        time.sleep(0.1)
    for one in waiting:
        report.skip(f"demo on {one.device}")
        report.fact(f"last lines of the demo on {one.device}", one.said)


def number(figure: Any) -> float:
    """A figure with or without its interval."""
    return float(figure["value"] if isinstance(figure, dict) else figure)


def _compare(report: Report, card: dict[str, float], expected: dict[str, float], where: str) -> None:
    """where: what is expected comes from; the documented mean stands in for a CPU that wasn't done in time."""
    for name, deviation in DEVIATIONS.items():
        difference, allowed = card[name] - expected[name], DEVIATIONS_ALLOWED * deviation
        row = {"case": f"{TASK} {name}", "card": card[name], "expected": expected[name], "from": where}
        report.row(**row, difference=difference, allowed=allowed, right=abs(difference) <= allowed)
