"""Files of candidates to score, read in batches, and files of scores, written in batches and complete or absent.

Parquet files have types. In CSV and TSV, `time` is a whole number and everything else is text: ids are used as written,
a number in text is a number for a numeric feature, and an empty value is unknown.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq

from genrank.errors import LogError, OutputError
from genrank.folders import sync

BATCH_ROWS = 2**16
SEPARATORS = {".csv": ",", ".tsv": "\t"}
KINDS = (".parquet", ".pq", *SEPARATORS)


@dataclass(frozen=True, kw_only=True)
class CandidateFile:
    """A file of candidates. schema: its columns, as `batches` gives them."""

    path: Path
    schema: pa.Schema

    @classmethod
    def open(cls, path: Path) -> "CandidateFile":
        """LogError for a file that is missing, empty, damaged or of another format."""
        _check_kind(path, error=LogError)
        if not path.is_file():
            raise LogError(f"{path}: {'is a folder' if path.is_dir() else 'no such file'}; give the file of candidates")
        with _readable(path):
            if path.suffix.lower() not in SEPARATORS:
                return cls(path=path, schema=pq.read_schema(path))
            with _csv(path, {}) as reader:
                types = {name: pa.int64() if name == "time" else pa.string() for name in reader.schema.names}
        return cls(path=path, schema=pa.schema(types.items()))

    def batches(self, *, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """The rows with those columns, BATCH_ROWS or so at a time. LogError for what can't be read."""
        with _readable(self.path):
            if self.path.suffix.lower() not in SEPARATORS:
                with pq.ParquetFile(self.path, pre_buffer=False, buffer_size=2**20) as file:
                    yield from file.iter_batches(BATCH_ROWS, columns=list(columns))
                return
            with _csv(self.path, {name: self.schema.field(name).type for name in columns}) as reader:
                yield from reader


@contextmanager
def new_file(final: Path, schema: pa.Schema) -> Iterator[Callable[[pa.RecordBatch], None]]:
    """A function that appends a batch to a temporary file, renamed to `final` when the block ends without an error."""
    _check_kind(final, error=OutputError)
    if final.is_dir():
        raise OutputError(f"{final}: is a folder; name a file in it, as in {final / 'scores.parquet'}")
    part = final.with_name(f".{final.name}.part-{os.getpid()}")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        with _writer(part, final.suffix.lower(), schema) as writer:
            yield writer.write_batch
        sync(part)
        part.replace(final)
        sync(final.parent)
    except OSError as problem:
        raise OutputError(
            f"{final}: can't be written ({problem.strerror or problem}); choose another --out, or make room"
        ) from None
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _writer(path: Path, kind: str, schema: pa.Schema) -> Any:
    if kind not in SEPARATORS:
        return pq.ParquetWriter(path, schema)
    return pcsv.CSVWriter(path, schema, write_options=pcsv.WriteOptions(delimiter=SEPARATORS[kind]))


def _csv(path: Path, types: dict[str, pa.DataType]) -> pcsv.CSVStreamingReader:
    convert = pcsv.ConvertOptions(
        column_types=types, include_columns=list(types), null_values=[""], strings_can_be_null=True
    )
    parse = pcsv.ParseOptions(delimiter=SEPARATORS[path.suffix.lower()], newlines_in_values=True)
    return pcsv.open_csv(path, parse_options=parse, convert_options=convert)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, UnicodeError) as problem:
        reason = " ".join(str(problem).split())[:200]
        raise LogError(f"{path}: can't be read ({reason}); write or copy it again") from None


def _check_kind(path: Path, *, error: type[LogError] | type[OutputError]) -> None:
    if path.suffix.lower() not in KINDS:
        raise error(f"{path}: expected a name that ends with {', '.join(KINDS)}, found {path.suffix!r}; rename it")
