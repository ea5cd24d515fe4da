"""A cell of a study: one run under one seed, or a classical baseline, as a JSON file that every study can reuse.

A cell's name is a hash of its question: the configuration with its seed, the data, the version of this file's format.
How it was computed (threads, device, the recipe's name) is not part of the question. Each file has the versions and the
digest of the code that computed it, and a digest of its content. A cell that was edited or cut short, has another
question or was computed by other code is computed again.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from genrank.config import to_dict
from genrank.documents import parse_json
from genrank.folders import replace_text
from genrank.runs.run_config import RunConfig
from genrank.schema import fingerprint
from genrank.studies.cell_archive import cell_texts
from genrank.studies.code import code_digest, made_with
from genrank.studies.study import ClassicalBaseline

FORMAT = 1
HOW = ("recipe", "threads", "device", "evaluation")  # fields of a RunConfig that are no part of a cell's question


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A computation on the data set with the hash `data`: a run (`config`) or a classical baseline."""

    data: str
    seed: int
    config: RunConfig | None = None
    classical: ClassicalBaseline | None = None

    @property
    def question(self) -> dict[str, Any]:
        """Everything that determines the figures."""
        values = None if self.config is None else to_dict(replace(self.config, seed=self.seed))
        if values is not None:
            values = {name: value for name, value in values.items() if name not in HOW}
        # A classical baseline is called "yardstick" in files of this format.
        asked = {"format": FORMAT, "data": self.data, "seed": self.seed, "yardstick": self.classical, "config": values}
        plain: dict[str, Any] = json.loads(json.dumps(asked))  # tuples are lists, as they will be when read back
        return plain

    @property
    def identity(self) -> str:
        """A hash of the question."""
        return fingerprint(self.question)[:16]

    @property
    def file_name(self) -> str:
        """Name of the cell's JSON file."""
        what = self.classical or (self.config.recipe if self.config else "")
        return f"{what}-{self.seed}-{self.identity}.json"


@dataclass(frozen=True, kw_only=True)
class CellResult:
    """A finished cell's figures, or why there are none."""

    figures: Mapping[str, Any]
    error: str = ""

    @property
    def failed(self) -> bool:
        """Whether it ended in an error."""
        return bool(self.error)


def write_cell(folder: Path, cell: Cell, result: CellResult) -> None:
    """Write the cell's file, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"question": cell.question, "made": made_with(), "figures": dict(result.figures), "error": result.error}
    text = json.dumps({**content, "digest": _digest(content)}, indent=None, separators=(",", ":"))
    replace_text(folder / cell.file_name, text + "\n")


def read_cell(folder: Path, cell: Cell) -> CellResult | None:
    """The cell's result, from its file or the folder's archive; None if there is none that this code computed.

    Raises DataError where the archive is damaged, because it may hold hours of work.
    """
    found = (_trusted(text, cell) for _, text in cell_texts(folder, cell.identity))
    return next((result for result in found if result is not None), None)


def _trusted(text: bytes, cell: Cell) -> CellResult | None:
    """The result in a cell's file; None if it is damaged, has another question or was computed by other code."""
    try:
        content = parse_json(text)
        digest = content.pop("digest")
        if digest != _digest(content) or content["question"] != cell.question:
            return None
        if content["made"]["code"] != code_digest():
            return None
        return CellResult(figures=content["figures"], error=content["error"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _digest(content: Mapping[str, Any]) -> str:
    return fingerprint(json.loads(json.dumps(content)))
