"""Whatever a CSV file holds and however it was damaged: all of its rows, or an error that names a line."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import strategies as st

from amounts import examples
from genrank.errors import LogError
from genrank.log_settings import CsvSettings
from genrank.preparation.duckdb_engine import DuckDBEngine as Engine
from genrank.preparation.text_files import read_text

NAMES = ["uid", "iid", "ts", "clk"]
Rows = list[list[str | None]]
OFTEN = examples(150, 40, suppress_health_check=[HealthCheck.function_scoped_fixture])
CELLS = st.text(alphabet=st.sampled_from("ab0,;\t|\"'\\# é日\u2028\n"), max_size=6)
VALID = "uid,iid,ts,clk\n" + "".join(
    f'"u{n}",' + (f"i{n}" if n % 3 else f'"i,""x""\n{n}"') + f",{1_700_000_000 + n},{n % 2 if n % 4 else ''}\n"
    for n in range(60)
)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    made = Engine(tmp_path_factory.mktemp("engine"), threads=2)
    yield made
    made.close()


def read(engine: Engine, path: Path, content: bytes, how: CsvSettings | None = None) -> Rows:
    path.write_bytes(content)
    table = engine.fetch(read_text(engine, [path], how or CsvSettings(), NAMES)[0])
    return [list(row) for row in zip(*(table[name].to_pylist() for name in table.column_names), strict=True)]


@OFTEN
@given(
    rows=st.lists(st.lists(CELLS, min_size=4, max_size=4), max_size=30),
    separator=st.sampled_from(",;\t|"),
    quoting=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL, csv.QUOTE_NONNUMERIC]),
    line_end=st.sampled_from(["\n", "\r\n"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    is_set=st.booleans(),
)
def test_what_a_writer_of_csv_wrote_is_read_as_it_was(
    engine: Engine,
    tmp_path: Path,
    rows: list[list[str]],
    separator: str,
    quoting: int,
    line_end: str,
    encoding: str,
    is_set: bool,
) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=separator, quoting=quoting, lineterminator=line_end).writerows([NAMES, *rows])  # type: ignore[arg-type]
    content = text.getvalue().encode(encoding)
    try:
        found = read(engine, tmp_path / "log.csv", content, CsvSettings(quote='"') if is_set else None)
    except LogError as problem:
        message = str(problem)
        assert "one value from a quote to the next" in message
        assert not is_set
    else:
        assert found == [[value or None for value in row] for row in rows]


def by_the_book(content: bytes) -> list[list[str]] | None:
    """The rows as Python's reader finds them, if all are as long as the header and no value reads as rows."""
    try:
        text = content.decode()
        lines = list(io.StringIO(text, newline=""))
        reader = csv.reader(lines, strict=True)
        rows, begin = [], 0
        for row in reader:
            raw, begin = lines[begin : reader.line_num], reader.line_num
            if len(raw) > 1 and all(line.count(",") == len(NAMES) - 1 for line in raw):
                return None
            rows += [row] if row else []
    except (csv.Error, UnicodeDecodeError):
        return None
    header = rows[0] if rows else []
    whole = rows and all(len(row) == len(header) and row != header for row in rows[1:])
    return rows[1:] if whole and header == NAMES and "\0" not in text else None


@st.composite
def mutilated(draw: st.DrawFn) -> bytes:
    content = VALID.encode()
    for _ in range(draw(st.integers(1, 2))):
        place = draw(st.integers(0, len(content)))
        inserted = draw(st.sampled_from([b"", b",", b'"', b"\n", b"\r", b"\0", b"\xff", b'"\n', b',"', b"x"]))
        removed = (
            draw(st.sampled_from([0, 0, 1, 2, 7, 40, 300, len(content)])) if inserted else draw(st.integers(1, 90))
        )
        content = content[:place] + inserted + content[place + removed :]
    return content


@OFTEN
@given(content=mutilated())
@example(content=b'uid,iid,ts,clk\n"u0","i,,')
def test_a_damaged_file_is_read_whole_or_refused_with_its_line(engine: Engine, tmp_path: Path, content: bytes) -> None:
    expected = by_the_book(content)
    try:
        found = read(engine, tmp_path / "log.csv", content)
    except LogError as problem:
        message = str(problem)
        assert "log.csv" in message
        assert "\n" not in message
        header_is_whole = content.startswith(VALID[:15].encode())
        assert " line" in message or not header_is_whole, message
        assert expected is None, message
    else:
        if expected is not None:
            assert found == [[value or None for value in row] for row in expected]
        elif content.startswith(VALID[:15].encode()):  # whole rows if a quote is a letter as any other
            unquoted = [line.split(",") for line in content.decode().splitlines()]
            assert found == [[value or None for value in row] for row in unquoted[1:]]
        else:  # the header is another one
            assert len(found) == sum(bool(row) for row in csv.reader(io.StringIO(content.decode(), newline=""))) - 1
