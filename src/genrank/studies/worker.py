"""Computes one cell in a separate process: python -m genrank.studies.worker FOLDER, which holds order.json."""

import sys
from pathlib import Path

from genrank.config import build
from genrank.documents import read_json
from genrank.errors import DataError, InputError
from genrank.runs.run_config import RunConfig
from genrank.studies.cells import Cell, write_cell
from genrank.studies.running import compute
from genrank.studies.schedule import BAD_INPUT


def main() -> int:
    """Compute the ordered cell and write its file; the exit code."""
    workplace = Path(sys.argv[1])
    order = read_json(workplace / "order.json", error=DataError, remedy="a study writes it")
    asked = order["cell"]
    config = build(RunConfig, asked["config"], where="order") if asked["config"] else None
    cell = Cell(data=asked["data"], seed=asked["seed"], config=config, classical=asked["yardstick"])
    try:
        result = compute(cell, Path(order["data"]), workplace / "run", threads=order["threads"])
    except InputError as problem:
        sys.stderr.write(" ".join(str(problem).split()) + "\n")
        return BAD_INPUT
    write_cell(Path(order["cells"]), cell, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
