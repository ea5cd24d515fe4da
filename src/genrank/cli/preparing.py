"""Logs prepared, and days added to a prepared folder, with progress on the terminal and a summary."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from genrank.config import build
from genrank.data.manifest import DataWarning, Manifest
from genrank.errors import ConfigError
from genrank.preparation.extending import extend
from genrank.preparation.logs import Source
from genrank.preparation.prepare import PrepareOptions, prepare
from genrank.preparation.sources.files import files
from genrank.preparation.sources.public_data import published


@dataclass(frozen=True, kw_only=True)
class LogArguments:
    """A log as the command line names it: with a `schema` or as a `source`, and settings of the schema."""

    logs: Sequence[Path | str]
    schema: Path | None = None
    source: str | None = None
    settings: Sequence[str] = ()

    def open(self) -> Source:
        """The log, to be read. ConfigError for other paths than the source takes."""
        if self.schema is not None:
            return files(self.logs, schema=self.schema).with_settings(self.settings)
        if len(self.logs) != 1:
            raise ConfigError(
                f"--source {self.source}: expected one folder, found {len(self.logs)} paths; give the unpacked folder"
            )
        return published(str(self.source), Path(self.logs[0])).with_settings(self.settings)


def prepare_with_progress(
    log: LogArguments, *, out: Path, options: Mapping[str, Any] | None = None, console: Console
) -> Manifest:
    """Prepare with progress on the terminal, then print a summary. `options`: of PrepareOptions, None for a default."""
    wanted, began = _options(options or {}), time.monotonic()
    with console.status("preparing") as status:
        manifest = prepare(log.open(), out=out, options=wanted, report=status.update)
    counts = manifest.counts
    console.print(
        f"{counts.exposures:,} exposures of {counts.users:,} users and {counts.items:,} items, split by time into "
        f"{counts.train.exposures:,} / {counts.valid.exposures:,} / {counts.test.exposures:,}, "
        f"in {time.monotonic() - began:.1f} s → [bold]{out}[/]",
        highlight=False,
    )
    if manifest.schema.known_later:
        console.print(
            f"{manifest.late_actions:,} exposures ({manifest.late_actions / counts.exposures:.1%}) have actions that "
            "became known only after their user's next request; histories contain them from then on",
            highlight=False,
        )
    _print_findings(manifest.dropped, manifest.warnings, console)
    return manifest


def extend_with_progress(
    log: LogArguments, folder: Path, *, late: int, options: Mapping[str, Any] | None = None, console: Console
) -> Manifest:
    """Add days with progress on the terminal, then print what the folder holds. late: seconds, see `extend`."""
    wanted, began = _options(options or {}), time.monotonic()
    before = Manifest.load(folder)
    with console.status("extending") as status:
        manifest = extend(log.open(), folder, options=wanted, late=late, report=status.update)
    counts = manifest.counts
    console.print(
        f"added {counts.exposures - before.counts.exposures:,} exposures in {time.monotonic() - began:.1f} s → "
        f"[bold]{folder}[/], now {counts.exposures:,} exposures of {counts.users:,} users and {counts.items:,} items",
        highlight=False,
    )
    new = {reason: number - before.dropped.get(reason, 0) for reason, number in manifest.dropped.items()}
    _print_findings(new, manifest.warnings[len(before.warnings) :], console)
    return manifest


def _options(given: Mapping[str, Any]) -> PrepareOptions:
    return build(PrepareOptions, {name: value for name, value in given.items() if value is not None}, where="prepare")


def _print_findings(dropped: Mapping[str, int], warnings: Sequence[DataWarning], console: Console) -> None:
    for reason, number in dropped.items():
        if number:
            console.print(f"dropped {number:,}: {reason}", highlight=False)
    for warning in warnings:
        heading = ("leakage: ", "red") if warning.kind == "leakage" else ("note: ", "yellow")
        console.print(Text.assemble(heading, warning.message))
