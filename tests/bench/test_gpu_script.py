"""benchmarks/gpu.py in miniature, in Triton's interpreter: every step writes its figures, and none stops another."""

import importlib.util
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("triton")
ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu.py"
TINY, BUDGET = ["--device", "cpu", "--tiny"], ["--budget", "1000"]
BARE = """
import runpy, sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"pyarrow", "rich", "ibis", "duckdb", "msgspec"}:
            raise ModuleNotFoundError(f"{name} is not on this machine", name=name)
sys.meta_path.insert(0, Missing())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_script(*command: str) -> None:
    done = subprocess.run([sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    assert done.returncode == 0, done.stdout.decode()


def run_bare(folder: Path, *steps: str) -> Path:
    run_script("-c", BARE, str(SCRIPT), *TINY, "--out", str(folder), "--same-process", *steps, *BUDGET)
    return folder


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the quick steps, run without what a GPU machine may not have."""
    return run_bare(tmp_path_factory.mktemp("gpu"), "--only", "check,scoring")


@pytest.fixture(scope="module")
def slow_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the steps that take longest, run in the same way."""
    return run_bare(tmp_path_factory.mktemp("gpu_slow"), "--only", "attention,training")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of the demo, in a process of its own."""
    folder = tmp_path_factory.mktemp("gpu_demo")
    run_script(str(SCRIPT), *TINY, "--out", str(folder), "--only", "demo", *BUDGET)
    return folder


def content(folder: Path, step: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / f"{step}.json").read_text())
    return found


@pytest.mark.parametrize("step", ["check", "scoring"])
def test_a_step_leaves_its_figures_and_what_they_were_measured_with(out: Path, step: str) -> None:
    assert_done(out, step)


@pytest.mark.slow
@pytest.mark.parametrize("step", ["attention", "training"])
def test_a_long_step_does_so_too(slow_out: Path, step: str) -> None:
    assert_done(slow_out, step)


def assert_done(out: Path, step: str) -> None:
    found = content(out, step)
    assert (found["status"], found["errors"], found["not_run"]) == ("done", [], [])
    assert found["rows"]
    assert {"card", "driver", "torch", "triton", "commit", "command"} <= set(found["machine"])


def test_every_backend_is_checked_forward_and_backward(out: Path) -> None:
    rows = content(out, "check")["rows"]
    assert {row["backend"] for row in rows} == {"triton", "plain", "fused"}
    assert {row["queries"] for row in rows} == {"history", "candidates", "interleaved"}
    assert all(row["right"] for row in rows)
    assert all({"output", "d_q", "d_k", "d_v"} <= set(row["errors"]) for row in rows)
    assert all({"d_position_table", "d_time_table"} <= set(row["errors"]) for row in rows if row["learned"])
    assert {row["bit_equal"] for row in rows if row["deterministic"]} == {True}


@pytest.mark.slow
def test_attention_is_held_against_that_of_pytorch_and_tiles_are_searched(slow_out: Path) -> None:
    rows = content(slow_out, "attention")["rows"]
    speeds = [row for row in rows if "what" in row]
    assert {(row["case"], row["what"]) for row in speeds} >= {
        (case, what) for case in ("triton, ALiBi", "triton, HSTU", "sdpa, flash") for what in ("forward", "both")
    }
    assert all(min(row["milliseconds"], row["tflops"], row["over_sdpa"]) > 0 for row in speeds)
    tiles = [row for row in rows if row["case"] == "tile"]
    assert {row["kernel"] for row in tiles} == {"forward", "query_gradient", "key_gradient", "table_gradient"}
    assert all(row["milliseconds"] > 0 and row["over_reasoned"] > 0 for row in tiles)
    checked = [row for row in rows if row["case"] == "tile checked"]
    assert all(row["fits"] for row in checked)
    assert [row["kernel"] for row in checked[:4]] == [row["kernel"] for row in checked[4:]]  # most promising ones first
    assert {row["learned"] for row in checked} == {True, False}


@pytest.mark.slow
def test_the_winning_tiles_are_a_file_that_the_kernels_take(slow_out: Path) -> None:
    from genrank.nn.triton_tiles import KERNELS, read

    (path,) = (slow_out / "tiles").iterdir()
    assert {one.kernel for one in read(path).measured} == set(KERNELS)


@pytest.mark.slow
def test_training_compares_every_model_and_explains_its_step(slow_out: Path) -> None:
    found = content(slow_out, "training")
    cases = ["action, genrank", "interleaved, genrank", "action, hstu", "interleaved, hstu", "hstu with its own block"]
    assert [row["case"] for row in found["rows"]] == cases
    for row in found["rows"]:
        assert min(row["exposures_per_second"], row["mfu_measured"], row["over_hstu"], row["over_own_block"]) > 0
    assert len(found["facts"]["kernels of genrank"]) == 15
    assert "_Attend" in (slow_out / "kernels-genrank.txt").read_text()


def test_scoring_has_percentiles_of_every_case_eager_and_by_graphs(out: Path) -> None:
    rows = content(out, "scoring")["rows"]
    assert [(row["batch"], row["way"]) for row in rows] == [(1, "eager"), (1, "graph"), (2, "eager"), (2, "graph")]
    assert all(0 < row["p50_ms"] <= row["p99_ms"] for row in rows)
    assert all(row["right"] and row["difference"] < 1e-5 for row in rows)
    assert all("stand-in" in row["why"] for row in rows if row["way"] == "graph")  # there is no CUDA


@pytest.mark.slow
def test_the_demo_is_run_twice_and_its_figures_compared(demo: Path) -> None:
    assert_done(demo, "demo")
    rows = content(demo, "demo")["rows"]
    assert sum(row["case"] == "run" for row in rows) == 2
    assert [(row["case"], row["right"]) for row in rows[2:]] == [("click auc", True), ("click gauc", True)]


def imported(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{path.stem}_script", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module, in which steps can be put."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")
    return imported(SCRIPT)


Step = Callable[..., None]


def steps(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, **functions: Step) -> None:
    monkeypatch.setattr(gpu, "STEPS", dict.fromkeys(functions, 10))
    for name, function in functions.items():
        module = ModuleType(f"gpu_steps.{name}")
        module.run = function  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, f"gpu_steps.{name}", module)


def good(report: Any, *arguments: Any, **named: Any) -> None:
    report.row(case="one", right=True)


def raises(report: Any, *arguments: Any, **named: Any) -> None:
    report.row(case="before", right=True)
    raise RuntimeError("the driver is on fire")


def slow(report: Any, *arguments: Any, **named: Any) -> None:
    for case in report.cases(["first", "second", "third"]):
        time.sleep(0.2)
        report.row(case=case)


def wrong(report: Any, *arguments: Any, **named: Any) -> None:
    report.row(case="wrong", right=False, error=float("nan"))
    report.row(case="right", right=True)


def run(gpu: ModuleType, folder: Path, *more: str) -> int:
    status: int = gpu.main([*TINY, "--same-process", "--out", str(folder), *more])
    return status


def test_a_step_that_raises_keeps_its_rows_and_does_not_stop_the_next(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps(gpu, monkeypatch, bad=raises, fine=good)
    assert run(gpu, tmp_path) == 1
    bad = content(tmp_path, "bad")
    assert bad["status"] == "failed"
    assert [row["case"] for row in bad["rows"]] == ["before"]
    assert bad["errors"][0]["traceback"][-1] == "RuntimeError: the driver is on fire"
    assert content(tmp_path, "fine")["status"] == "done"


def test_a_step_over_its_budget_stops_and_names_what_it_left_out(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    steps(gpu, monkeypatch, late=slow)
    assert run(gpu, tmp_path, "--budget", "0.1") == 0
    found = content(tmp_path, "late")
    assert (found["status"], found["not_run"]) == ("over budget", ["second", "third"])
    assert [row["case"] for row in found["rows"]] == ["first"]
    assert "not run: second; third" in capsys.readouterr().out


def test_a_wrong_row_is_status_1_and_a_figure_that_is_no_number_is_text(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps(gpu, monkeypatch, wrong=wrong)
    assert run(gpu, tmp_path) == 1
    found = content(tmp_path, "wrong")
    assert (found["status"], found["right"], found["rows"][0]["error"]) == ("done", False, "nan")


def test_every_row_is_on_disk_before_the_next_case_begins(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def looks(report: Any, *arguments: Any, **named: Any) -> None:
        for number in range(3):
            report.row(case=number)
            seen.append((len(content(tmp_path, "looks")["rows"]), content(tmp_path, "looks")["status"]))

    steps(gpu, monkeypatch, looks=looks)
    assert run(gpu, tmp_path) == 0
    assert seen == [(1, "running"), (2, "running"), (3, "running")]
    assert [path.name for path in tmp_path.iterdir()] == ["looks.json"]


def test_a_step_whose_process_is_ended_keeps_its_rows_and_is_said_to_be_killed(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []

    def ended(command: list[str], *, seconds: float) -> str:
        commands.append(command)
        (tmp_path / "check.json").write_text(json.dumps({"status": "running", "rows": [{"case": "one"}], "errors": []}))
        return f"its process was ended after {seconds:.0f} s"

    monkeypatch.setattr(gpu, "watch", ended)
    options = ["--budget", "5", "--lengths", "16,32", "--repeats", "3", "--workers", "0"]
    assert gpu.main([*TINY, "--out", str(tmp_path), "--only", "check", *options]) == 1
    found = content(tmp_path, "check")
    assert (found["status"], found["rows"]) == ("killed", [{"case": "one"}])
    assert found["errors"][0]["traceback"] == ["its process was ended after 50 s"]
    (command,) = commands
    assert vars(gpu.parse(command[2:])) == vars(
        gpu.parse([*TINY, "--out", str(tmp_path), "--only", "check", *options, "--same-process"])
    )


@pytest.mark.slow
def test_every_step_runs_in_a_process_of_its_own_that_spreads_its_cases(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), *TINY, "--budget", "2000", "--workers", "2"]
    done = subprocess.run(
        command, env={**os.environ, "OUT": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path.stem for path in tmp_path.glob("*.json")} == {"check", "attention", "training", "scoring", "demo"}
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 8


def test_a_process_that_hangs_is_ended_with_its_children(gpu: ModuleType) -> None:
    began = time.monotonic()
    command = [
        sys.executable,
        "-c",
        "import subprocess, sys; subprocess.run([sys.executable, '-c', 'while True: pass'])",
    ]
    assert gpu.watch(command, seconds=0.5) == "its process was ended after 0 s"
    assert time.monotonic() - began < 60
    assert gpu.watch([sys.executable, "-c", "import os; os._exit(3)"], seconds=60) == "its process ended with status 3"


@pytest.mark.usefixtures("gpu")
def test_a_case_that_fails_or_kills_its_process_costs_no_other_case() -> None:
    from gpu_steps.workers import spread

    found = {str(o.case): o for o in spread(int, ["3", "x", "5"], workers=1, seconds=lambda: 100.0)}
    assert (found["3"].value, found["5"].value) == (3, 5)
    assert found["x"].error[-1].startswith("ValueError")
    (died,) = spread(os._exit, [7], workers=1, seconds=lambda: 100.0)
    assert died.error == ["its process ended with status 7"]


@pytest.mark.usefixtures("gpu")
def test_a_case_that_hangs_is_not_waited_for() -> None:
    from gpu_steps.workers import spread

    end = time.monotonic() + 0.5
    assert list(spread(time.sleep, [600], workers=1, seconds=lambda: max(end - time.monotonic(), 0.0))) == []
    assert time.monotonic() < end + 60


@pytest.mark.usefixtures("gpu")
def test_a_host_wait_is_listed_with_its_line() -> None:
    import torch

    from gpu_steps import training

    with training.host_waits(torch.device("cpu")) as found:
        warnings.warn("called a synchronizing CUDA operation", UserWarning, stacklevel=1)
        warnings.warn("something else", UserWarning, stacklevel=1)
    assert dict(found) == {"no line of genrank": 1}


def test_the_demo_on_a_card_is_held_against_the_documented_figures_where_the_cpu_is_late(
    gpu: ModuleType, tmp_path: Path
) -> None:
    from gpu_steps import demo
    from gpu_steps.report import Report

    report = Report(tmp_path / "demo.json", {}, seconds=9)
    demo._compare(report, {"auc": 0.8040, "gauc": 0.7525}, demo.DOCUMENTED, "documented")
    assert [row["right"] for row in report.rows] == [True, False]
    assert report.content["right"] is False


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "check,atention"], "there is no step 'atention'; the steps are check, attention, training"),
        (["--skip", "dmo"], "there is no step 'dmo'"),
        (["--only", "demo", "--skip", "demo"], "no step is left"),
        (["--budget", "0"], "--budget: 0.0 must be above 0"),
        (["--lengths", "4"], "--lengths: 4 is too short"),
    ],
)
def test_a_wrong_command_is_refused_in_one_line(
    gpu: ModuleType, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as refused:
        gpu.main([*TINY, *arguments])
    said = capsys.readouterr().err
    assert refused.value.code == 2
    assert message in said
    assert said.count("\n") == 1


def test_on_a_cpu_only_miniature_sizes_are_run(gpu: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        gpu.main(["--device", "cpu"])
    assert "add --tiny" in capsys.readouterr().err


def test_what_the_demo_never_imports_is_left_out_of_the_archive(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wheels = imported(SCRIPT.with_name("gpu_wheels.py"))
    for name in ("pandas/tests/test_all.py", "pyarrow/libarrow_flight.so.1700", "pyarrow/libarrow.so.1700"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    wheels.leave_out(tmp_path)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["libarrow.so.1700"]
    with pytest.raises(SystemExit):
        wheels.main(["--without", "pyarow"])
    assert "--without: pyarow is none of" in capsys.readouterr().err
