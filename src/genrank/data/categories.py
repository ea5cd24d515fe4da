"""The text form of a value: how ids and categories of every type are written, from a log's columns and in requests.

`category` writes a Python value from JSON or Arrow; preparation/category_columns.py writes a column of the engine.
Numbers of every type are written alike: 1, 1.0 and the decimal 1.00 are "1". Truth values are "true" and "false"; text
is unchanged. Categories finds the index of a value.
"""

import math
import re
from collections.abc import Iterable
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

import numpy as np

from genrank.errors import shown

EXACT = {"float64": 2**53, "float32": 2**24, "float16": 2**11}  # from here on neighbouring whole numbers are one float
INT64 = 2**63
NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")  # as JSON writes them
FLAGS = {"true": "1", "false": "0", "1": "true", "0": "false"}
WANTED = "expected text, a number, true, false or null"


def category(value: Any) -> str | None:
    """The text of a value; None for unknown values: null, NaN, infinities. ValueError for lists and objects."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and abs(value) < 10**40:
        return str(value)
    if isinstance(value, float):
        return _of_float(value)
    if isinstance(value, Decimal):
        return _of_decimal(value)
    if isinstance(value, datetime):
        return _of_moment(value)
    if isinstance(value, date | time | UUID):
        return re.sub(r"(\.\d*?)0+$", r"\1", str(value))
    if isinstance(value, bytes):
        return value.decode()
    raise ValueError(f"{WANTED}, found {shown(value)}")


def intended(number: float) -> float:
    """The intended number of one that may have been stored in 32 bits: 0.1 for 0.10000000149011612."""
    return float(category(number) or number)


def id_text(value: Any) -> str:
    """The text form of an id. ValueError for null, truth values, lists, and floats too large to be one id only."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool) or (isinstance(value, float) and not abs(value) < EXACT["float64"]):
        raise ValueError(f"expected an id, text or a whole number, found {shown(value)}")
    return str(category(value))


def _of_float(value: float) -> str | None:
    if not math.isfinite(value):
        return None
    if value.is_integer() and -INT64 <= value < INT64:
        return str(int(value))
    with np.errstate(over="ignore"):
        single = np.float32(value)
    return repr(float(str(single)) if float(single) == value else value)  # see `intended`


def _of_decimal(value: Decimal) -> str | None:
    if not value.is_finite():
        return None
    text = f"{value:f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text


def _of_moment(value: datetime) -> str:
    zone = "" if value.tzinfo is None else "+00"
    naive = value if value.tzinfo is None else value.astimezone(UTC).replace(tzinfo=None)
    return re.sub(r"(\.\d*?)0+$", r"\1", naive.isoformat(" ")) + zone


class Categories(dict[str, int]):
    """The values of a vocabulary, as text, and their indices from 1; `index` finds those of raw values."""

    def __init__(self, texts: Iterable[tuple[str, int]]) -> None:
        super().__init__(texts)
        self._otherwise: dict[str, int] = {}  # for values other than text: other forms of them in the text of a log
        for text, index in self.items():
            plain = _plain(text)
            if plain is not None and plain not in self:
                self._otherwise.setdefault(plain, index)
        for pair in (("true", "false"), ("1", "0")):
            if self and all(text in pair for text in self):
                self._otherwise |= {FLAGS[text]: index for text, index in self.items()}

    def index(self, value: Any) -> int:
        """Index of a value, 0 if it is unknown. ValueError for lists and objects.

        Text is found unchanged; a number or truth value also if the log has it as text, such as 1.0 or True.
        """
        text = category(value)
        if text is None:
            return 0
        return self.get(text, 0) or (0 if isinstance(value, str) else self._otherwise.get(text, 0))

    def index_of_key(self, key: str) -> int:
        """Index of an object's key, which is always text in JSON."""
        return self.get(key, 0) or self._otherwise.get(_plain(key) or key, 0) or self.get(_plain(key) or "", 0)


def _plain(text: str) -> str | None:
    """The text form of a number or truth value that a text has in another form; None if it isn't one."""
    if text in ("True", "False", "TRUE", "FALSE"):
        return text.lower()
    if not ("." in text or "e" in text or "E" in text) or not NUMBER.fullmatch(text):
        return None
    return category(float(text))
