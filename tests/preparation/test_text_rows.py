"""Text files as rows: all of a file's rows, or one line that names file, line and remedy; never fewer in silence."""

import csv
import gzip
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from amounts import crossed
from genrank.errors import LogError
from genrank.log_settings import CsvSettings
from genrank.preparation.duckdb_engine import DuckDBEngine as Engine
from genrank.preparation.text_files import read_text

NAMES = ["uid", "iid", "ts", "clk"]
HEADER = b"uid,iid,ts,clk\n"
Read = Callable[..., list[list[str | None]]]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    made = Engine(tmp_path_factory.mktemp("engine"), threads=2)
    yield made
    made.close()


@pytest.fixture
def read(engine: Engine, tmp_path: Path) -> Read:
    """What is read of files of this content: the rows' values."""

    def read(*contents: bytes, name: str = "log.csv", given: CsvSettings | None = None) -> list[list[str | None]]:
        paths = [tmp_path / f"{number}-{name}" for number in range(len(contents))]
        for path, content in zip(paths, contents, strict=True):
            path.write_bytes(content)
        rows, _ = read_text(engine, paths, given or CsvSettings(), NAMES)
        table = engine.fetch(rows)
        return [list(row) for row in zip(*(table[name].to_pylist() for name in table.column_names), strict=True)]

    return read


def lines(count: int, begin: int = 0) -> bytes:
    numbers = range(begin, begin + count)
    return b"".join(b"u%d,i%d,%d,%d\n" % (n % 50, n % 70, 1_700_000_000 + n, n % 2) for n in numbers)


def values(content: bytes) -> list[list[str | None]]:
    return [list(line.split(",")) for line in content.decode().splitlines()]


PLAIN = lines(3000)


def refusal(read: Read, *contents: bytes, **options: object) -> str:
    with pytest.raises(LogError) as caught:
        read(*contents, **options)
    message = str(caught.value)
    assert "\n" not in message
    for word in ("DuckDB", "strict_mode", "null_padding", "CSV Error", "sniff", "Traceback", "Arrow"):
        assert word not in message
    return message


def with_more(content: bytes) -> bytes:
    return b"".join(line + b",x\n" for line in content.splitlines())


@pytest.mark.parametrize("old", [1, 10, 100, 1900, 3000, 60_000])
def test_files_one_after_the_other_are_refused_where_the_second_begins(read: Read, old: int) -> None:
    both = HEADER + lines(old) + HEADER.strip() + b",more\n" + with_more(PLAIN)
    line = refusal(read, both)
    assert f"0-log.csv, line {old + 2}: expected 4 values" in line
    assert "files of their own" in line


@pytest.mark.parametrize(
    ("again", "first"),
    crossed([HEADER, b'"uid","iid","ts","clk"\n', b"\xef\xbb\xbf" + HEADER], [1, 60_000, 3000]),
)
def test_the_column_names_again_are_no_row(read: Read, first: int, again: bytes) -> None:
    quoted = again.startswith(b'"')
    content = HEADER + lines(first) + again + PLAIN + (b'u1,"a\nb",1,1\n' if quoted else b"")
    line = refusal(read, content)
    assert f"line {first + 2}: the column names again" in line


def test_a_preamble_is_refused_and_the_line_of_the_column_names_told(read: Read) -> None:
    line = refusal(read, b"# exported 2026-11-27\n# by us\n" + HEADER + PLAIN)
    assert "they are in line 3: take out what is before" in line
    assert "'uid'" in refusal(read, PLAIN)


ODD_ROWS = {
    b"u1,i1,1700000000,1,9\n": 5,
    b"u1,i1,1700000000,1,\n": 5,
    b"u,1,i1,1700000000,\n": 5,
    b"u1,i1,1700000000\n": 3,
    b"   \n": 1,
    b"-- middle\n": 1,
}  # with the number of their values


@pytest.mark.parametrize(("odd", "row"), crossed(list(ODD_ROWS), [0, 1999, 59_999]))
def test_a_row_of_another_length_is_named_wherever_it_is(read: Read, row: int, odd: bytes) -> None:
    found = ODD_ROWS[odd]
    content = HEADER + lines(row) + odd + lines(60_000 - row, row)
    line = refusal(read, content)
    assert f"0-log.csv, line {row + 2}: expected 4 values, one for each column name, found {found}" in line
    assert "correct or remove the line" in line


def test_rows_that_are_too_long_and_too_short_do_not_make_up_for_each_other(read: Read) -> None:
    assert "line 5: expected 4 values" in refusal(read, HEADER + lines(3) + b"u,1,i,1,\nu1,i1,1\n" + PLAIN)


@pytest.mark.parametrize("footer", [b"(3000 rows)\n", b"Total,3000\n", b"(3000 rows)"])
def test_a_footer_is_named(read: Read, footer: bytes) -> None:
    line = refusal(read, HEADER + PLAIN + footer)
    assert "line 3002" in line
    assert "footer" in line


def test_a_last_line_that_is_cut_is_named(read: Read) -> None:
    line = refusal(read, (HEADER + PLAIN)[:-6])
    assert "line 3001" in line
    assert "is the file cut" in line
    assert read((HEADER + PLAIN)[:-1]) == values(PLAIN)


@pytest.mark.parametrize("blank", [b"\n", b"\n\n\n"])
def test_empty_lines_are_no_rows(read: Read, blank: bytes) -> None:
    content = blank + HEADER + blank + lines(100) + blank + lines(200, 100) + blank
    assert read(content) == values(lines(300))
    assert read(content.replace(b"\n", b"\r\n")) == values(lines(300))


@pytest.mark.parametrize(
    ("ends", "first"),
    crossed([(b"\n", b"\r\n"), (b"\r\n", b"\n"), (b"\n", b"\r"), (b"\r", b"\r"), (b"\r\n", b"\r\n")], [60_000, 0, 50]),
)
def test_line_ends_of_any_kind_may_be_mixed(read: Read, first: int, ends: tuple[bytes, bytes]) -> None:
    begin, end = HEADER + lines(first), lines(2000, first)
    content = begin.replace(b"\n", ends[0]) + end.replace(b"\n", ends[1])
    assert read(content) == values(lines(first) + end)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_unicode_is_read_whole_or_its_cut_line_named(read: Read, encoding: str) -> None:
    content = (HEADER + PLAIN).decode().encode(encoding)
    assert read(content) == values(PLAIN)
    assert "line 3001" in refusal(read, content[: -11 if encoding == "utf-8-sig" else -3])


@pytest.mark.parametrize("place", [0, 59_999])
def test_zero_bytes_are_named(read: Read, place: int) -> None:
    line = refusal(read, HEADER + lines(place) + b"u\0,i,1,1\n" + lines(60_000 - place))
    assert f"line {place + 2}: expected text" in line


@pytest.mark.parametrize(
    ("odd", "line", "words"),
    [
        (b'"u1,i1,1,1\n', 5002, "closing quote, found none"),
        (b'u1,i1,1,"1', 5002, "closing quote, found none"),
        (b'"u1"x,i1,1,1\n', 5002, "after a closing quote"),
        (b'"u\\"1",i1,1,1\n', 5002, "write quotes inside of values twice"),
        (b'"u1,i1,1,1\nu2,i2,2,"2"\n', 5003, "the row begins in line 5002"),
        (b'"u1,i1,1,1\nu2,i2,2,2\nu3",i1,1,1\n', 5002, "lines 5002 to 5004: one value from a quote to the next, or 3"),
    ],
)  # fmt: skip
def test_quotes_that_do_not_fit_are_named(read: Read, odd: bytes, line: int, words: str) -> None:
    message = refusal(read, HEADER + lines(5000) + odd + (lines(200) if odd.endswith(b"\n") else b""))
    assert f" {line}" in message
    assert words in message
    assert "[csv] quote" in message


def test_a_quote_that_is_set_is_meant(read: Read) -> None:
    odd = HEADER + lines(10) + b'"u1,i1,1,1\nu2,i2,2,2\nu3",i1,1,1\n'
    assert len(read(odd, given=CsvSettings(quote=""))) == 13
    assert read(odd, given=CsvSettings(quote='"'))[-1] == ["u1,i1,1,1\nu2,i2,2,2\nu3", "i1", "1", "1"]


def test_values_with_quotes_separators_and_line_ends_are_read_as_they_are(read: Read) -> None:
    odd = b'"a,""b""\r\nc",i1,1,1\nu"1,i"2,2,0\n"","x ",3,1\n'
    expected: list[list[str | None]] = [
        ['a,"b"\r\nc', "i1", "1", "1"],
        ['u"1', 'i"2', "2", "0"],
        [None, "x ", "3", "1"],
    ]
    assert read(HEADER + lines(40_000) + odd + lines(40_000)) == [
        *values(lines(40_000)), *expected, *values(lines(40_000))
    ]  # fmt: skip


def test_very_long_values_are_read_or_their_line_named(read: Read) -> None:
    for size in (200_000, 3_000_000):
        assert read(HEADER + lines(9) + b"u1," + b"x" * size + b",1,1\n" + lines(9))[9][1] == "x" * size
        quoted = b'u1,"' + b"x\n" * (size // 2) + b'",1,1\n'
        assert read(HEADER + lines(9) + quoted + lines(9))[9][1] == "x\n" * (size // 2)
    line = refusal(read, HEADER + lines(9) + b"u1," + b"x" * 20_000_000 + b",1,1\n" + lines(9))
    assert "line 11: expected a row of at most" in line


def test_bytes_that_are_no_text_matter_in_columns_that_are_read(read: Read) -> None:
    assert "line 60002: not UTF-8" in refusal(read, HEADER + lines(60_000) + b"\xff,i,1,1\n" + PLAIN)
    assert "line 60002: not UTF-8" in refusal(read, HEADER + lines(60_000) + b'\xff,"i\nj",1,1\n' + PLAIN)
    more = HEADER.strip() + b",note\n" + with_more(lines(60_000)) + b"u,i,1,1,\xff\n"
    assert len(read(more)) == 60_001


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"PAR1....", "Parquet"),
        (b"\x1f\x8b\x08\x00....", "gzip"),
        (b"PK\x03\x04....", "zip or Excel"),
        (b"\xd0\xcf\x11\xe0....", "Excel"),
        (b'{"uid": 1}\n', "JSON"),
        (b'[{"uid": 1}]\n', "JSON"),
        (b"\x28\xb5\x2f\xfd....", "zstandard"),
        (b"", "empty"),
    ],
)
def test_files_of_other_kinds_are_named(read: Read, content: bytes, kind: str) -> None:
    line = refusal(read, HEADER + PLAIN, content)
    assert "1-log.csv: " in line
    assert kind in line


def test_the_one_of_several_files_is_named(read: Read) -> None:
    contents = [HEADER + lines(100), HEADER + lines(50) + b"u1,i1\n" + lines(50), HEADER + lines(100)]
    assert "1-log.csv, line 52" in refusal(read, *contents)
    assert "1-log.csv.gz, line 52" in refusal(read, *(gzip.compress(part) for part in contents), name="log.csv.gz")


def test_rows_stay_in_the_order_of_the_files(read: Read) -> None:
    odd = HEADER + lines(100, 100) + b"\n\n"  # written anew, between two that aren't
    assert read(HEADER + lines(100), odd, HEADER + lines(100, 200)) == values(lines(300))


def test_a_header_only_is_no_rows_and_compressed_files_may_have_several_parts(read: Read) -> None:
    assert read(HEADER) == read(HEADER.strip()) == []
    parts = gzip.compress(HEADER + lines(100)) + gzip.compress(lines(100, 100))
    assert read(parts, name="log.csv.gz") == values(lines(200))
    for damaged in (parts[:-20], parts[:200], b"uid,iid,ts,clk\n", parts[:60] + b"xxxx" + parts[64:]):
        assert "0-log.csv.gz: expected gzip" in refusal(read, damaged, name="log.csv.gz")


def test_names_with_the_signs_of_patterns_are_names(read: Read) -> None:
    assert read(HEADER + lines(3), name="l[o]g*?.csv") == values(lines(3))


def test_a_file_that_vanishes_while_it_is_read_is_named(
    read: Read, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import genrank.preparation.text_rows as rows

    counted = rows.plain_rows

    def count_and_remove(path: Path, dialect: object) -> int | None:
        found = counted(path, dialect)  # type: ignore[arg-type]
        path.unlink()
        return found

    monkeypatch.setattr(rows, "plain_rows", count_and_remove)
    assert "0-log.csv: can't be read (No such file or directory)" in refusal(read, HEADER + lines(3))


def test_a_file_that_grows_while_it_is_read_is_read_as_it_is_then(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    import genrank.preparation.text_rows as rows

    counted = rows.plain_rows

    def count_and_append(path: Path, dialect: object) -> int | None:
        found = counted(path, dialect)  # type: ignore[arg-type]
        with path.open("ab") as file:
            file.write(lines(7))
        return found

    monkeypatch.setattr(rows, "plain_rows", count_and_append)
    assert len(read(HEADER + lines(30))) == 37


@pytest.mark.parametrize("separator", ["\t", ";", "|"])
def test_quoted_files_of_other_separators(read: Read, separator: str) -> None:
    text = io.StringIO(newline="")
    expected: list[list[str | None]] = [[f"u{n}", f"i{separator}{n}", str(n), "1"] for n in range(3000)]
    csv.writer(text, delimiter=separator, lineterminator="\n").writerows([NAMES, *expected])
    assert read(text.getvalue().encode()) == expected


def test_files_of_one_dialect_may_have_different_line_ends(read: Read) -> None:
    contents = [HEADER + lines(100), HEADER + lines(100, 100), HEADER + lines(100, 200)]
    assert read(contents[0], contents[1].replace(b"\n", b"\r\n"), contents[2]) == values(lines(300))
