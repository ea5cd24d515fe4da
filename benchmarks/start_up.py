"""How long the command line takes to start: what people wait for before anything happens.

    python benchmarks/start_up.py [--runs 10]

Processor time and wall clock of a fresh process, medians; at a terminal, help has frames and colours.
"""

import argparse
import os
import pty
import resource
import statistics
import subprocess
import sys
import time

from genrank.text_table import TextTable, to_markdown

PROGRAM = [sys.executable, "-c", "import sys; from genrank.cli import main; sys.exit(main())"]
CASES = (
    ("--version", False),
    ("--help", False),
    ("--help", True),
    ("train --help", False),
    ("train --help", True),
    ("trian", False),
)


def run(arguments: list[str], *, terminal: bool) -> tuple[float, float]:
    """Seconds of a call: processor, wall clock."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    if terminal:
        run_at_terminal(arguments)
    else:
        subprocess.run([*PROGRAM, *arguments], capture_output=True, check=False)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def run_at_terminal(arguments: list[str]) -> None:
    """A call whose output is a terminal."""
    reader, writer = pty.openpty()
    with subprocess.Popen([*PROGRAM, *arguments], stdout=writer, stderr=writer):
        os.close(writer)
        try:
            while os.read(reader, 65536):
                pass
        except OSError:  # how Linux says that the other side has closed
            pass
    os.close(reader)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10)
    options = parser.parse_args()
    rows = []
    for command, terminal in CASES:
        run(command.split(), terminal=terminal)  # files are in the system's cache afterwards
        took = [run(command.split(), terminal=terminal) for _ in range(options.runs)]
        figures = [f"{1000 * statistics.median(kind):.0f}" for kind in zip(*took, strict=True)]
        rows.append([f"genrank {command}", "terminal" if terminal else "pipe", *figures])
    table = TextTable(head=["command", "output", "processor, ms", "wall clock, ms"], rows=rows, numeric=(2, 3))
    print("\n".join(to_markdown(table)))


if __name__ == "__main__":
    main()
