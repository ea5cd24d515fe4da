"""The user's own log: Parquet, CSV or TSV files, and a schema that gives their columns roles."""

import glob
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from genrank.data.engine import Engine, Expression
from genrank.data.logs import Relations, Source
from genrank.errors import LogError
from genrank.schema import LogSchema, Owner

PARQUET = (".parquet", ".pq")
TEXT = {".csv": ",", ".tsv": "\t"}


def files(paths: Sequence[Path | str], *, schema: Path | LogSchema, folder: Path | None = None) -> Source:
    """The log in `paths`: files, folders (all files in them) or patterns such as `logs/day=*/*.parquet`.

    `schema`: a TOML file, or the schema itself; then `folder` is where side tables and embeddings lie. Raises
    SchemaError for the schema; reading raises LogError for files that are missing, empty, damaged or of mixed formats.
    """
    log_schema = schema if isinstance(schema, LogSchema) else LogSchema.from_toml(schema)
    base = folder or (Path() if isinstance(schema, LogSchema) else Path(schema).parent)
    found = [path for name in paths for path in _expand(Path(name))]

    def read(engine: Engine) -> Relations:
        ids = _text_columns(log_schema, None)
        exposures = read_table(engine, found, text_columns=ids)
        sides = {}
        for owner, table in (("item", log_schema.tables.item), ("user", log_schema.tables.user)):
            if table is not None:
                text = (table.key, *_text_columns(log_schema, owner))  # type: ignore[arg-type]
                sides[f"{owner}s"] = read_table(engine, _expand(base / table.path), text_columns=text)
        return Relations(exposures=exposures, **sides)

    description = {"kind": "files", "files": [path.name for path in found]}
    return Source(schema=log_schema, read=read, folder=base, description=description)


def read_table(engine: Engine, paths: Sequence[Path], *, text_columns: Sequence[str] = ()) -> Expression:
    """Rows of Parquet, CSV or TSV files of one format; `text_columns` of text files are not parsed as numbers."""
    kinds = {_suffix(path) for path in paths}
    if len(kinds) > 1:
        raise LogError(f"expected files of one format, found {', '.join(sorted(kinds))}; give those of one format only")
    if kinds <= set(PARQUET):
        for path in paths:
            _check_parquet(path)
        return engine.parquet(list(paths))
    for path in paths:
        if path.stat().st_size == 0:
            raise LogError(f"{path}: the file is empty; expected a line of column names and one line per row")
    delimiter = TEXT[kinds.pop()]
    return engine.text(list(paths), text_columns=tuple(text_columns), delim=delimiter, header=True)


def _expand(path: Path) -> list[Path]:
    if path.is_dir():
        inside = sorted(file for file in path.rglob("*") if file.is_file() and _known(file))
        if not inside:
            raise LogError(f"{path}: no .parquet, .csv or .tsv files in this folder; give the folder of the log")
        return inside
    found = [path] if path.is_file() else sorted(Path(name) for name in glob.glob(str(path), recursive=True))
    if not found:
        raise LogError(f"{path}: no such file or folder; check the path")
    for file in found:
        if not _known(file):
            raise LogError(f"{file}: expected .parquet, .csv or .tsv (also .gz), found {file.suffix!r}; convert it")
    return found


def _suffix(path: Path) -> str:
    return Path(path.name.removesuffix(".gz")).suffix.lower()


def _known(path: Path) -> bool:
    hidden = path.name.startswith((".", "_"))
    return not hidden and _suffix(path) in (*PARQUET, *TEXT)


def _check_parquet(path: Path) -> None:
    try:
        pq.read_metadata(path)
    except (pa.ArrowException, OSError) as problem:
        raise LogError(f"{path}: not a readable Parquet file ({problem}); write or copy it again") from None


def _text_columns(schema: LogSchema, owner: Owner | None) -> tuple[str, ...]:
    """Columns of the log (owner None) or of a side table that hold ids or categories."""
    mine = (owner,) if owner is not None else ("exposure",)
    features = [f for f in schema.features if f.owner in mine and f.kind in ("categorical", "multi")]
    columns = [str(feature.column) for feature in features]
    if owner is None:
        ids = (schema.columns.user, schema.columns.item, schema.columns.request)
        columns += [part.column for part in schema.feedback] + [name for name in ids if name is not None]
    numeric = {task.column for task in schema.tasks}  # a rating may be both feedback and a task's threshold
    return tuple(dict.fromkeys(column for column in columns if column not in numeric))
