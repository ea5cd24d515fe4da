"""CSV and TSV of any dialect and encoding: read as meant, or refused in one line that names the setting."""

import gzip
from pathlib import Path

import pytest

from amounts import crossed
from case_logs import SCHEMA, Case, rows, written
from exposure_logs import Prepared

PLAIN = rows()


def assert_plain(made: Prepared) -> None:
    """All 800 exposures with the ids, times and labels that were written."""
    found = sorted((row["user"], row["item"], row["time"], row["task_click"]) for row in made.rows())
    assert found == sorted((row["uid"], row["iid"], row["ts"], row["clk"]) for row in PLAIN)


@pytest.mark.parametrize(("separator", "name"), crossed([",", ";", "\t", "|", "\x01"], ["log.csv", "log.tsv"]))
def test_the_separator_is_found_out_whatever_the_files_name(case: Case, separator: str, name: str) -> None:
    assert_plain(case.read(written(case.folder / name, PLAIN, delimiter=separator)))


def test_other_separators_are_set(case: Case) -> None:
    log = written(case.folder / "log.csv", PLAIN, delimiter="^")
    assert "[csv] separator" in case.refusal(log)
    assert_plain(case.read(log, SCHEMA + '[csv]\nseparator = "^"\n'))


def test_a_separator_that_is_set_wrongly_is_refused_by_name(case: Case) -> None:
    line = case.refusal(written(case.folder / "log.csv", PLAIN), SCHEMA, "--set", "csv.separator=;")
    assert "set [csv] separator" in line
    assert "'uid,iid,ts,clk'" in line


@pytest.mark.parametrize(
    ("encoding", "line_end"),
    crossed(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"], ["\n", "\r\n", "\r"]),
)
def test_unicode_of_any_kind_and_line_end_is_found_out(case: Case, encoding: str, line_end: str) -> None:
    text = written(case.folder / "plain.txt", PLAIN).read_text(encoding="utf-8")
    log = case.folder / "log.csv"
    log.write_bytes(text.replace("\n", line_end).encode(encoding))
    assert_plain(case.read(log))


def test_line_ends_may_be_mixed(case: Case) -> None:
    lines = written(case.folder / "plain.txt", PLAIN).read_bytes().split(b"\n")
    log = case.folder / "log.csv"
    log.write_bytes(b"\r\n".join(lines[:300]) + b"\r\n" + b"\n".join(lines[300:]))
    assert_plain(case.read(log))


@pytest.mark.parametrize(("encoding", "row"), crossed(["latin-1", "cp1252", "gb18030", "shift-jis"], [10, 30_000, 799]))
def test_other_encodings_are_set_and_the_error_names_the_setting(case: Case, encoding: str, row: int) -> None:
    word = "café" if encoding in ("latin-1", "cp1252") else "日本"
    lines = PLAIN * (1 + row // 800)
    lines[row] = lines[row] | {"iid": word}
    text = written(case.folder / "plain.txt", lines).read_text(encoding="utf-8")
    log = case.folder / "log.csv"
    log.write_bytes(text.encode(encoding))
    line = case.refusal(log)
    assert "set [csv] encoding" in line
    assert f"line {row + 2}" in line
    made = case.read(log, SCHEMA + f'[csv]\nencoding = "{encoding}"\n')
    assert word in made.table("items.parquet")["id"].to_pylist()


def test_compressed_files_are_read_in_any_dialect(case: Case) -> None:
    text = written(case.folder / "plain.txt", PLAIN, delimiter=";").read_text(encoding="utf-8")
    (case.folder / "log.csv.gz").write_bytes(gzip.compress(text.encode("utf-16")))
    assert_plain(case.read(case.folder / "log.csv.gz"))


@pytest.mark.parametrize(
    ("broken", "found"),
    [("u1,i01,1700003458,1,oops", "found 5"), ("u1,i01,1700003458", "found 3"), ("800 rows", "found 1")],
)
def test_ragged_rows_name_file_line_and_what_was_expected(case: Case, broken: str, found: str) -> None:
    log = written(case.folder / "log.csv", PLAIN)
    with log.open("a", encoding="utf-8") as file:
        file.write(broken + "\n")
    line = case.refusal(log)
    assert f"log.csv, line 802: expected 4 values, one for each column name, {found}" in line
    assert broken in line


def test_values_may_hold_other_separators_quotes_and_line_ends(case: Case) -> None:
    odd = [row | {"iid": f"{row['iid']};x,y|z", "uid": row["uid"] + '"q"\nend'} for row in PLAIN]
    made = case.read(written(case.folder / "log.tsv", odd, delimiter="\t"))
    assert {row["item"] for row in made.rows()} == {row["iid"] for row in odd}
    assert {row["user"] for row in made.rows()} == {row["uid"] for row in odd}


def test_a_quote_that_is_no_quote_is_part_of_the_value(case: Case) -> None:
    lines = [row | {"iid": '"' + row["iid"]} for row in PLAIN]
    log = case.folder / "log.tsv"
    log.write_text("uid\tiid\tts\tclk\n" + "".join("\t".join(map(str, row.values())) + "\n" for row in lines))
    assert {row["item"] for row in case.read(log).rows()} == {row["iid"] for row in lines}


def test_an_unbalanced_quote_names_the_setting(case: Case) -> None:
    log = case.folder / "log.csv"
    text = written(log, PLAIN * 10).read_text()
    log.write_text(text + '"u1,i01,1700003458,1\n' + "u1,i01,1700003458,1\n")
    assert "set [csv] quote" in case.refusal(log)
    assert case.read(log, SCHEMA, "--set", "csv.quote=''").manifest.counts.users == 21


def test_numbers_with_decimal_commas_are_set(case: Case) -> None:
    schema = SCHEMA + '[[features]]\nname = "price"\nowner = "exposure"\nkind = "numeric"\ncolumn = "price"\n'
    lines = [
        row | {"price": f"1.{100 + n % 9}0,{n % 7}5"[:8] if n % 2 else f"{n % 5},5"} for n, row in enumerate(PLAIN)
    ]
    log = written(
        case.folder / "log.csv", [row | {"price": row["price"].replace("1.", "")} for row in lines], delimiter=";"
    )
    assert "set csv.decimal = ','" in case.refusal(log, schema)
    boundaries = case.read(log, schema, "--set", "csv.decimal=,").manifest.boundaries["price"]
    assert 0 < boundaries[0] < 10


def test_thousands_are_grouped_by_commas_and_it_is_said(case: Case) -> None:
    schema = SCHEMA + '[[features]]\nname = "price"\nowner = "exposure"\nkind = "numeric"\ncolumn = "price"\n'
    lines = [row | {"price": "1,200" if n % 2 else "1.5"} for n, row in enumerate(PLAIN)]
    made = case.read(written(case.folder / "log.csv", lines), schema)
    assert made.manifest.boundaries["price"][-1] == 1200
    assert any("400 numbers such as 1,200" in found.message for found in made.manifest.warnings)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["the file is empty"]),
        (b"\xef\xbb\xbf\n", ["the file is empty"]),
        (b"uid,iid,ts,clk\n", ["the log has no rows"]),
        (b"uid,iid,ts,clk", ["the log has no rows"]),
        (b"u1,i1,1700003458,1\nu2,i2,1700003459,0\n", ["expected columns such as 'uid'", "line of column names"]),
        (b"uid,iid,ts,clk,clk\nu1,i1,1,1,0\n", ["there are 2 columns 'clk'"]),
        (b"uid,iid,clk\nu1,i1,1\n", ["columns.time", "no column 'ts'"]),
        (b"PAR1 and more", ["found Parquet", "rename"]),
        (b"PK\x03\x04....", ["zip or Excel"]),
        (b"\x1f\x8b\x08\x00....", ["gzip"]),
        (b"\x00\x01\x02\x03,\x00", ["expected text"]),
    ],
)  # fmt: skip
def test_files_that_are_no_log_are_refused_in_one_line(case: Case, content: bytes, words: list[str]) -> None:
    log = case.folder / "log.csv"
    log.write_bytes(content)
    line = case.refusal(log)
    for word in words:
        assert word in line


def test_a_truncated_gzip_is_refused(case: Case) -> None:
    text = written(case.folder / "plain.txt", PLAIN).read_bytes()
    (case.folder / "log.csv.gz").write_bytes(gzip.compress(text)[:500])
    assert "log.csv.gz" in case.refusal(case.folder / "log.csv.gz")


def test_columns_may_stand_in_another_order_in_another_file(case: Case) -> None:
    first = written(case.folder / "a.csv", PLAIN[:500])
    turned = [dict(reversed((row | {"more": 1}).items())) for row in PLAIN[500:]]
    second = written(case.folder / "b.csv", turned, delimiter=";")
    assert_plain(case.read([first, second]))


def test_a_file_that_lacks_a_column_of_the_others_is_named(case: Case) -> None:
    first = written(case.folder / "a.csv", PLAIN[:500])
    second = written(case.folder / "b.csv", [{k: row[k] for k in ("uid", "iid", "ts")} for row in PLAIN[500:]])
    line = case.refusal([first, second])
    assert "b.csv: there is no column 'clk', which a.csv has" in line


def test_unused_columns_may_be_repeated_or_without_a_name(case: Case) -> None:
    log = written(case.folder / "log.csv", PLAIN)
    header, *lines = log.read_text().splitlines()
    log.write_text("\n".join([f",x,X,{header}", *(f"{n},1,2,{line}" for n, line in enumerate(lines))]) + "\n")
    assert_plain(case.read(log))


def test_a_log_that_cannot_be_opened_is_named(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    log = written(case.folder / "log.csv", PLAIN)
    opened = Path.open

    def refuse(self: Path, *arguments: object, **options: object) -> object:
        if self == log:
            raise PermissionError(13, "Permission denied")
        return opened(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)
    assert "Permission denied" in case.refusal(log)
