"""GenRank on a GPU, in steps: are the kernels right, how fast are attention, training and scoring, does the demo agree?

    python benchmarks/gpu.py [--only check,attention] [--skip demo] [--out DIR] [--budget SECONDS]
    python benchmarks/gpu.py --device cpu --tiny     all of it in miniature, in Triton's interpreter, without a GPU

Needs torch, triton, numpy and safetensors, and genrank's source beside it; the step `demo` also what
benchmarks/gpu_wheels.py packs. All data are random or simulated. Every step runs in a process of its own, within its
budget, and leaves OUT/<step>.json, written anew after every case: whenever the machine is taken away, what was measured
is there. docs/performance.md, section GPU, says what each step writes.

Exit status: 0 if every chosen step ended without an error and every check is right, else 1; 2 for a wrong command.
"""

import argparse
import contextlib
import importlib
import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
# Steps in their order, and their budgets in seconds: nine minutes with the processes' starts.
STEPS = {"check": 60, "attention": 130, "training": 120, "scoring": 80, "demo": 130}
GRACE = 45  # seconds after its budget in which a step may end its last case
MOST_WORKERS = 12  # processes that compile


def main(arguments: list[str] | None = None) -> int:
    """See the module."""
    options = parse(arguments)
    chosen = [step for step in STEPS if step in options.only and step not in options.skip]
    prepare_environment(options.device)
    import torch

    if options.device == "cuda" and not torch.cuda.is_available():
        return refuse("there is no CUDA device; try the script with --device cpu --tiny")
    share = 1.0 if options.budget is None else options.budget / sum(STEPS[step] for step in chosen)
    for step in chosen:
        if options.same_process:
            run_step(step, options, seconds=STEPS[step] * share)
        else:
            run_apart(step, options, seconds=STEPS[step] * share)
    return int(not all(ended_well(step, options.out) for step in chosen))


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line; what is wrong with it is said in one line, with status 2."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--tiny", action="store_true", help="miniature sizes, for a trial")
    parser.add_argument("--only", default=",".join(STEPS), help="steps, by commas")
    parser.add_argument("--skip", default="", help="steps, by commas")
    parser.add_argument("--out", type=Path, help="default: $OUT if that is set, else build/gpu")
    parser.add_argument(
        "--budget", type=float, help=f"seconds of all chosen steps (default: of all {sum(STEPS.values())})"
    )
    parser.add_argument("--lengths", help="positions of a user in attention and training, by commas")
    parser.add_argument("--repeats", type=int, help="timed runs of each case")
    parser.add_argument(
        "--workers", type=int, help="processes that compile (default: on a card one a core, at most 12)"
    )
    parser.add_argument("--same-process", action="store_true", help="no processes of their own for the steps")
    options = parser.parse_args(arguments)
    try:
        options.only, options.skip = (steps_of(text) for text in (options.only, options.skip))
        options.lengths = None if options.lengths is None else tuple(int(n) for n in options.lengths.split(","))
        if options.lengths is not None and min(options.lengths) < 16:
            raise ValueError(f"--lengths: {min(options.lengths)} is too short; give 16 or more")
        for name in ("budget", "repeats"):
            if getattr(options, name) is not None and not getattr(options, name) > 0:
                raise ValueError(f"--{name}: {getattr(options, name)} must be above 0")
        if options.workers is not None and options.workers < 0:
            raise ValueError(f"--workers: {options.workers} must be 0 (all in one process) or more")
        if not set(options.only) - set(options.skip):
            raise ValueError("no step is left: --skip names all that --only does")
        if options.device == "cpu" and not options.tiny:
            raise ValueError("on the CPU only miniature sizes are run: add --tiny")
    except ValueError as problem:
        sys.exit(refuse(str(problem)))
    if options.out is None:
        options.out = Path(os.environ.get("OUT") or HERE.parent / "build" / "gpu")
    return options


def steps_of(text: str) -> list[str]:
    """ValueError where there is no such step."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in STEPS:
            raise ValueError(f"there is no step {name!r}; the steps are {', '.join(STEPS)}")
    return names


def refuse(message: str) -> int:
    """The status of a wrong command."""
    print(f"gpu.py: {message}", file=sys.stderr)
    return 2


def prepare_environment(device: str) -> None:
    """What has to be set before PyTorch and Triton are imported, here and in all processes that are started."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it no product is deterministic
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # the processes that compile are many enough
    if device == "cpu":
        os.environ["TRITON_INTERPRET"], os.environ["CUDA_VISIBLE_DEVICES"] = "1", ""
    for path in (HERE, HERE.parent / "src"):
        if str(path) not in sys.path:
            sys.path.insert(0, str(path))


def run_step(step: str, options: argparse.Namespace, *, seconds: float) -> None:
    """The step in this process; whatever it raises is written down."""
    from dataclasses import replace

    import torch

    from gpu_steps.machine import TINY, Clock, Sizes, describe
    from gpu_steps.report import Report

    device = torch.device(options.device)
    sizes = TINY if options.tiny else Sizes()
    if options.lengths:
        sizes = replace(sizes, lengths=options.lengths)
    clock = Clock(device, options.repeats or sizes.repeats)
    workers = min(MOST_WORKERS, os.cpu_count() or 1) if device.type == "cuda" else 0
    workers = workers if options.workers is None else options.workers
    print(f"{step}, at most {seconds:.0f} s", flush=True)
    report = Report(
        options.out / f"{step}.json",
        describe(device, shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])),
        seconds=seconds,
    )
    with report.case(step):
        importlib.import_module(f"gpu_steps.{step}").run(report, sizes, clock, workers=workers)
    report.end()


def run_apart(step: str, options: argparse.Namespace, *, seconds: float) -> None:
    """The step in a process of its own, which is ended when it is late, with all that it has started."""
    command = [sys.executable, str(HERE / "gpu.py"), "--only", step, "--same-process", "--budget", str(seconds)]
    command += ["--out", str(options.out), "--device", options.device, *(["--tiny"] if options.tiny else [])]
    command += ["--lengths", ",".join(map(str, options.lengths))] if options.lengths else []
    command += ["--repeats", str(options.repeats)] if options.repeats else []
    command += ["--workers", str(options.workers)] if options.workers is not None else []
    (options.out / f"{step}.json").unlink(missing_ok=True)
    why = watch(command, seconds=seconds + GRACE)
    content = read(step, options.out)
    if content.get("status", "running") == "running":
        from gpu_steps.report import write_whole

        content |= {"step": step, "status": "killed"}
        content["errors"] = [*content.get("errors", []), {"case": step, "traceback": [why]}]
        write_whole(options.out / f"{step}.json", json.dumps(content, indent=1))
        print(f"{step}: killed, {why}", flush=True)


def watch(command: list[str], *, seconds: float) -> str:
    """Runs it for so long at most; how it ended."""
    process = subprocess.Popen(command, process_group=0)
    try:
        return f"its process ended with status {process.wait(seconds)}"
    except subprocess.TimeoutExpired:
        return f"its process was ended after {seconds:.0f} s"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def read(step: str, out: Path) -> dict[str, Any]:
    """What the step has written; nothing where it has written nothing."""
    path = out / f"{step}.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


def ended_well(step: str, out: Path) -> bool:
    """No error, and no row that is wrong; a step over its budget counts."""
    content = read(step, out)
    return content.get("status") in ("done", "over budget") and content.get("right") is not False


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a step's processes are ended too
    sys.exit(main())
