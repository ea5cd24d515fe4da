"""The user's own log: Parquet, CSV or TSV files, and a schema that gives their columns roles."""

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from genrank.data.manifest import DataWarning
from genrank.errors import LogError
from genrank.preparation.engine import Engine, Expression
from genrank.preparation.history_events import with_histories
from genrank.preparation.history_lists import histories_of_log, histories_of_table
from genrank.preparation.joining import join_actions
from genrank.preparation.lists import one_row_per_exposure
from genrank.preparation.log_addresses import Address, address_of, local_path, split_addresses
from genrank.preparation.logs import Relations, Source
from genrank.preparation.parquet_files import check_columns, parquet_columns
from genrank.preparation.text_files import read_text
from genrank.preparation.tidying import TableName, roles, tidy
from genrank.schema import LogSchema

PARQUET = (".parquet", ".pq")
TEXT = (".csv", ".tsv")


def files(paths: Sequence[Path | str], *, schema: Path | LogSchema, folder: Path | None = None) -> Source:
    """The log in `paths`: files, folders (all files in them) or patterns such as `logs/day=*/*.parquet`; or at
    addresses, see `preparation/log_addresses.py`.

    `schema`: a TOML file, or the schema itself; then `folder` is where side tables and embeddings lie. Raises
    SchemaError for the schema; reading raises LogError for files that are missing, empty, damaged or of mixed formats.
    """
    log_schema = schema if isinstance(schema, LogSchema) else LogSchema.from_toml(schema)
    base = folder or (Path() if isinstance(schema, LogSchema) else Path(schema).parent)
    found = [place for name in paths for place in located(name)]

    def read(engine: Engine, used: LogSchema) -> Relations:
        exposures, derived, warnings = exposures_of(engine, read_table(engine, found, used, None), used, base)
        sides = {}
        for owner, table in (("item", used.tables.item), ("user", used.tables.user)):
            if table is not None:
                rows = read_table(engine, located(table.path, base), used, owner)  # type: ignore[arg-type]
                sides[f"{owner}s"], of_side = tidy(engine, rows, roles(used, owner), used)  # type: ignore[arg-type]
                warnings += of_side
        return Relations(exposures=exposures, derived=derived, warnings=tuple(warnings), **sides)

    description = {"kind": "files", "files": [place.name for place in found]}
    return Source(schema=log_schema, read=read, folder=base, description=description)


def exposures_of(
    engine: Engine, rows: Expression, schema: LogSchema, folder: Path
) -> tuple[Expression, dict[str, str], list[DataWarning]]:
    """One row per exposure from a log's rows as read, the columns by role that were made, and what to warn of.

    `folder`: where the table of `history.lists.path` is. Raises SchemaError and LogError for what isn't as the schema
    says.
    """
    lists, histories = schema.history.lists, None
    if lists is not None and lists.path is not None:
        table = read_table(engine, located(lists.path, folder), schema, "history")
        histories = histories_of_table(engine, table, schema)
    elif lists is not None:
        rows, histories = histories_of_log(engine, rows, schema)
    exposures, derived, warnings = one_row_per_exposure(engine, rows, schema)
    exposures, of_values = tidy(engine, exposures, roles(schema), schema)
    exposures, from_join, of_join = join_actions(engine, exposures, schema)
    derived, warnings = derived | from_join, [*warnings, *of_values, *of_join]
    if histories is None:
        return exposures, derived, warnings
    exposures, from_history, of_history = with_histories(engine, exposures, histories, schema, derived)
    return exposures, derived | from_history, warnings + of_history


def read_table(
    engine: Engine, places: Sequence[Path | Address], schema: LogSchema, owner: TableName | None
) -> Expression:
    """Rows of Parquet, text files or addresses: of the log (owner None), an owner's side table, or the history's."""
    wanted = list(dict.fromkeys(role.name for role in roles(schema, owner)))
    paths, addresses = split_addresses(places)
    rows = engine.elsewhere(addresses, wanted) if addresses else None
    if rows is not None:
        return rows
    paths += [file for each in addresses for file in expanded(local_path(each))]
    kinds = {"Parquet" if _suffix(path) in PARQUET else "text" for path in paths}
    if len(kinds) > 1:
        suffixes = ", ".join(sorted({_suffix(path) for path in paths}))
        raise LogError(f"expected files of one format, found {suffixes}; give those of one format only")
    if kinds == {"Parquet"}:
        check_columns({str(path): parquet_columns(path) for path in paths}, wanted)
        return engine.parquet(list(paths), ordered=owner is None)
    tables = {"item": schema.tables.item, "user": schema.tables.user, "history": schema.history.lists}
    table = None if owner is None else tables[owner]
    rows, present = read_text(engine, paths, (table.csv if table else None) or schema.csv, wanted)
    check_columns({str(path): columns for path, columns in present.items()}, wanted)
    return rows


def located(name: Path | str, base: Path = Path()) -> list[Path | Address]:
    """The address in a name, or the files that it means; `base`: the folder of its path."""
    address = address_of(name)
    return [address] if address is not None else [*expanded(base / name)]


def expanded(path: Path) -> list[Path]:
    """The log's files in a path, a folder or a pattern. LogError where there are none, or others."""
    if path.is_dir():
        inside = [file for file in _inside(path) if _known(file)]
        if not inside:
            raise LogError(f"{path}: no .parquet, .csv or .tsv files in this folder; give the folder of the log")
        return inside
    found = [path] if path.is_file() else sorted(Path(name) for name in glob.glob(str(path), recursive=True))
    if not found:
        raise LogError(f"{path}: no such file or folder; check the path")
    for file in found:
        if not file.is_file():
            kind = "a folder" if file.is_dir() else "something else"
            raise LogError(f"{file}: expected a file, found {kind}; give the folder itself, or a pattern of files only")
        if not _known(file):
            raise LogError(f"{file}: expected .parquet, .csv or .tsv (also .gz), found {file.suffix!r}; convert it")
    return found


def _inside(folder: Path) -> list[Path]:
    """All files in a folder and its folders. Raises LogError for a folder that can't be looked into."""

    def refuse(problem: OSError) -> None:
        raise LogError(f"{problem.filename}: can't be read ({problem.strerror}); check its permissions")

    found = []
    for place, folders, names in os.walk(folder, onerror=refuse):
        found += [Path(place) / name for name in names]
        for name in folders:
            if (Path(place) / name).is_symlink():
                raise LogError(f"{Path(place) / name}: expected a folder, found a link to one; give the folder itself")
    return sorted(file for file in found if file.is_file())


def _suffix(path: Path) -> str:
    return Path(path.name.lower().removesuffix(".gz")).suffix


def _known(path: Path) -> bool:
    hidden = path.name.startswith((".", "_"))
    return not hidden and _suffix(path) in (*PARQUET, *TEXT)
