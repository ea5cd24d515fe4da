"""Whatever the bytes are: plain values, or one line that says where and what to do."""

import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrank.documents import DEEPEST, parse_json, read_json, read_json_lines
from genrank.errors import DataError

BROKEN = {
    "nothing": b"",
    "cut": b'{"a": [1,',
    "no UTF-8": b'{"a": "\xff\xfe"}',
    "NULs": b"\0" * 64,
    "deep lists": b"[" * 100_000,
    "deep objects": b'{"a":' * 100_000,
    "deep and whole": b"[" * 500 + b"]" * 500,
    "digits": b'{"a": ' + b"9" * 5000 + b"}",
    "half a character": b'{"a": "\\ud800"}',
    "half a character as a key": b'{"\\ud800": 1}',
    "a list": b"[1]",
    "a number": b"3",
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_one_line_of_its_own_error(name: str, tmp_path: Path) -> None:
    (tmp_path / "file.json").write_bytes(BROKEN[name])
    with pytest.raises(DataError, match=r"file\.json: damaged .*; do this") as raised:
        read_json(tmp_path / "file.json", error=DataError, remedy="do this")
    assert len(str(raised.value).splitlines()) == 1
    assert len(str(raised.value)) < 300 + len(str(tmp_path))


def test_what_is_no_file_is_the_same_error(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    for path in (tmp_path, tmp_path / "none", tmp_path / "link", tmp_path / ("a" * 300), tmp_path / "a\0b"):
        with pytest.raises(DataError, match="; do this"):
            read_json(path, error=DataError, remedy="do this")


def test_a_line_that_is_broken_is_named(tmp_path: Path) -> None:
    (tmp_path / "lines").write_bytes(b'{"a": 1}\n{"a": \n')
    with pytest.raises(DataError, match="line 2: damaged"):
        read_json_lines(tmp_path / "lines", error=DataError, remedy="do this")


def test_nesting_is_taken_up_to_the_limit_and_a_byte_order_mark_is_none_of_the_text() -> None:
    assert parse_json(b"[" * (DEEPEST - 1) + b"]" * (DEEPEST - 1))
    with pytest.raises(ValueError, match="nested too deep"):
        parse_json(b"[" * (DEEPEST + 1) + b"]" * (DEEPEST + 1))
    assert parse_json(b'\xef\xbb\xbf{"a": 1}') == {"a": 1}


@given(st.binary(max_size=64))
def test_any_bytes_are_values_or_a_value_error(content: bytes) -> None:
    with suppress(ValueError):
        values = parse_json(content)
        assert parse_json(json.dumps(values).encode()) == values
