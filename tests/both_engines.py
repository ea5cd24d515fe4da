"""A log prepared by DuckDB and by Spark, and what they made of it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from genrank.data.integrity import STAMP
from genrank.errors import InputError
from genrank.preparation.logs import Source
from genrank.preparation.prepare import PrepareOptions, prepare
from genrank.preparation.sources.files import files
from genrank.schema import LogSchema

OPTIONS: dict[str, Any] = {"threads": 2, "memory_limit": "1GB", "num_buckets": 2}


def outcome(source: Source, out: Path, engine: str) -> dict[str, Any]:
    """Every file's bytes and the manifest without versions, or the error."""
    try:
        manifest = prepare(source, out=out, options=PrepareOptions(engine=engine, **OPTIONS))  # type: ignore[arg-type]
    except InputError as problem:
        assert not out.exists()
        return {type(problem).__name__: str(problem)}
    assert ("spark" in manifest.versions) == (engine == "spark")
    found: dict[str, Any] = {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file() and path.name not in ("manifest.json", STAMP)
    }
    written = json.loads((out / "manifest.json").read_text())
    return found | {
        f"manifest: {name}": part for name, part in written.items() if name not in ("versions", "manifest_hash")
    }


def same(source: Source, folder: Path) -> dict[str, Any]:
    """What both engines made of it, which must be the same."""
    expected, found = (outcome(source, folder / f"by-{engine}", engine) for engine in ("duckdb", "spark"))
    different = [name for name in sorted(found | expected) if found.get(name) != expected.get(name)]
    said = {
        name: (expected.get(name), found.get(name)) for name in different if not isinstance(expected.get(name), bytes)
    }
    assert different == [], f"{different}: {str(said)[:9000]}"
    return expected


def same_files(paths: Sequence[Path], schema: Any, folder: Path) -> dict[str, Any]:
    """The same of files and their schema; side tables are in `folder`."""
    return same(files(paths, schema=schema, folder=folder if isinstance(schema, LogSchema) else None), folder)
