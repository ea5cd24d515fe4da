import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import torch

from amounts import THOROUGH
from redis_server import RedisServer
from retrievers import trained

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is first imported

ROOT = Path(__file__).resolve().parents[1]

# How long an example takes says nothing about the code on a machine that others use, too. `make test-all` is thorough.
hypothesis.settings.register_profile("genrank", deadline=None, max_examples=40)
hypothesis.settings.register_profile(THOROUGH, deadline=None, max_examples=150)
hypothesis.settings.load_profile("genrank")

# A shell's background job is deaf to SIGINT, and so are the commands that tests start and interrupt, but for this.
if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints what tests have measured: the properties that they recorded with `record_property`."""
    measured = [
        (report.nodeid.split("::")[-1], name, value)
        for reports in (terminalreporter.stats.get(outcome, []) for outcome in ("passed", "failed"))
        for report in reports
        for name, value in report.user_properties
    ]
    if measured:
        terminalreporter.section("measured")
        for test, name, value in sorted(measured, key=str):
            terminalreporter.write_line(f"{test}: {name} {value}")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    """Workers share the cores: where threads are more than cores, each waits in a loop until the others had a turn."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "cpu_count", lambda: 1)  # what studies and preparation take their number of threads from
        yield


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets beside the project; tests that need it skip where it is absent."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real data sets are not beside the project")
    return folder


@pytest.fixture(scope="session")
def feed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small simulated log with its schema."""
    from genrank.simulation import WorldConfig, simulate

    out = tmp_path_factory.mktemp("feed") / "feed"
    simulate(WorldConfig(num_users=60, num_days=6, num_items=200, new_items_per_day=10, num_topics=8), out)
    return out


@pytest.fixture(scope="session")
def data(feed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small log, prepared."""
    from genrank.cli import main

    out = tmp_path_factory.mktemp("data") / "data"
    assert main(["prepare", str(feed / "exposures"), "--schema", str(feed / "schema.toml"), "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="session")
def daily(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny log of several days, prepared."""
    from exposure_logs import prepare_log
    from run_days import days_log

    return prepare_log(tmp_path_factory.mktemp("daily"), days_log()).folder


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis of the test's own."""
    server = RedisServer(tmp_path)
    yield server
    server.kill()


TINY = ["--recipe", "genrank-small", "--set", "model.width=16", "--set", "model.num_heads=2", "--set", "threads=1"]


@pytest.fixture(scope="session")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model, trained on it."""
    from genrank.cli import main

    out = tmp_path_factory.mktemp("run") / "run"
    assert main(["train", str(data), "--out", str(out), *TINY, "--set", "training.epochs=1"]) == 0
    return out


@pytest.fixture(scope="session")
def grank(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny GRank on the small log, with its index."""
    from genrank.cli import main

    run = trained(data, tmp_path_factory.mktemp("grank") / "run", "--recipe", "grank-small")
    assert main(["index", str(run)]) == 0
    return run
