"""Sequences in order only, as retrieval papers use them: one user per line, `user item item …`, oldest item first.

The split leaves one out: the last item of every user with three or more is the test part, the one before it validation.
Times are made up so that the global split by time is this one, and say nothing but the order: all users' last items
have one time, and what lies before is a minute apart, each event a request of its own. There are no tasks. Items may
have attributes in a `…_item2attributes.json` beside the file: {item: [id, …]}.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from genrank.documents import read_json
from genrank.errors import LogError
from genrank.preparation.engine import Engine
from genrank.preparation.logs import Relations, Source
from genrank.schema import Columns, Feature, LogSchema, SideTable, SideTables, Split

LAST = 1_577_836_800  # 2020-01-01, the time of every test event; ours, like the step
STEP = 60  # seconds: at this step the longest of lines stays after 1970, and log2(1 + minutes) is that of the order
HELD_OUT = 2  # events of a user for validation and test
BLOCK = 2**26  # bytes of lines read at a time
ATTRIBUTES = "_item2attributes.json"
ITEMS = pa.schema([("item", pa.string()), ("attributes", pa.list_(pa.string()))])


def sequences(path: Path) -> Source:
    """The sequences in the file `path`, or in the one .txt of the folder `path`, a README aside.

    Raises LogError if there is none or there are several; reading raises it for what can't be used.
    """
    file = _only_text(path) if path.is_dir() else path
    attributes = _attributes(file)

    def read(engine: Engine, _: LogSchema) -> Relations:
        items = engine.from_arrow(_items(attributes)) if attributes else None
        return Relations(exposures=engine.from_arrow(_events(file)), items=items)

    schema = LogSchema(
        name=file.stem,
        columns=Columns(user="user", item="item", time="time"),
        features=(Feature(name="attributes", owner="item", kind="multi", column="attributes"),) if attributes else (),
        tables=SideTables(item=SideTable(path=attributes.name, key="item") if attributes else None),
        split=Split(valid_start=LAST - STEP, test_start=LAST),
    )
    names = [part.name for part in (file, attributes) if part is not None]
    return Source(schema=schema, read=read, folder=file.parent, description={"kind": "sequences", "files": names})


def _only_text(folder: Path) -> Path:
    found = sorted(path for path in folder.glob("*.txt") if not path.name.lower().startswith("readme"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise LogError(f"{folder}: expected one .txt of sequences, found {names}; give the path of the file itself")
    return found[0]


def _attributes(file: Path) -> Path | None:
    """The attributes named after the file, or the only ones beside it where it is the only .txt, too."""
    own = file.with_name(file.stem + ATTRIBUTES)
    if own.is_file():
        return own
    found = list(file.parent.glob(f"*{ATTRIBUTES}"))
    return found[0] if len(found) == 1 and len(list(file.parent.glob("*.txt"))) == 1 else None


@dataclass(frozen=True, kw_only=True)
class _SequenceLines:
    """Some lines of the file: their users and numbers, and the events of all of them in order."""

    users: pa.Array
    numbers: NDArray[np.int64]
    events: pa.Table


def _events(file: Path) -> pa.Table:
    """One row per item of a line: user, item, time."""
    parts = list(_blocks(file))
    if not parts:
        raise LogError(f"{file}: the file is empty; expected one user per line, as in: user item item …")
    _check_users(file, parts)
    events = pa.concat_tables([part.events for part in parts])
    if not pc.any(pc.equal(events["time"], LAST)).as_py():
        raise LogError(
            f"{file}: no user has {HELD_OUT + 1} items, so none can be held out for validation and test; "
            "expected one user per line with all of the user's items"
        )
    return events


def _blocks(file: Path) -> Iterator[_SequenceLines]:
    """The lines that aren't blank, some at a time."""
    first = 1
    with file.open("rb") as stream:
        while lines := stream.readlines(BLOCK):
            text = pc.ascii_trim_whitespace(_text(file, lines, first))
            numbers = np.flatnonzero(pc.binary_length(text).to_numpy()) + first
            if len(numbers):
                yield _split(file, text.take(pa.array(numbers - first)), numbers)
            first += len(lines)


def _text(file: Path, lines: list[bytes], first: int) -> pa.Array:
    try:
        return pa.array(lines, pa.binary()).cast(pa.string())
    except pa.ArrowInvalid:
        bad = next(number for number, line in enumerate(lines, start=first) if not _is_text(line))
        raise LogError(f"{file}, line {bad}: expected UTF-8 text, found other bytes; convert the file") from None


def _is_text(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _split(file: Path, text: pa.Array, numbers: NDArray[np.int64]) -> _SequenceLines:
    """`text`: lines without blanks around them; `numbers`: of these lines in the file, from 1."""
    words = pc.ascii_split_whitespace(text)
    starts, flat = words.offsets.to_numpy()[:-1], words.flatten()
    length = words.value_lengths().to_numpy() - 1
    if not length.all():
        alone = int(np.argmin(length))
        raise LogError(
            f"{file}, line {numbers[alone]}: expected a user and items, found {text[alone].as_py()!r} alone; "
            "add the user's items or leave out the line"
        )
    users = flat.take(pa.array(starts))
    line = np.repeat(np.arange(len(length)), length)
    place = np.arange(len(line)) - (np.cumsum(length) - length)[line]
    item = np.delete(np.arange(len(flat)), starts)
    time = _times(place, length[line])
    events = pa.table({"user": users.take(pa.array(line)), "item": flat.take(pa.array(item)), "time": pa.array(time)})
    return _SequenceLines(users=users, numbers=numbers, events=events)


def _times(place: NDArray[np.int64], length: NDArray[np.int64]) -> NDArray[np.int64]:
    """(N) seconds of events at `place`, from 0, of a line of `length` items; short lines end before validation."""
    behind = length - 1 - place + np.where(length > HELD_OUT, 0, HELD_OUT)
    times: NDArray[np.int64] = LAST - STEP * behind.astype(np.int64)
    return times


def _check_users(file: Path, parts: list[_SequenceLines]) -> None:
    users = pa.chunked_array([part.users for part in parts])
    numbers = np.concatenate([part.numbers for part in parts])
    table = pa.table({"user": users, "line": pa.array(numbers)})
    lines = table.group_by("user").aggregate([("line", "min"), ("line", "max")])
    twice = lines.filter(pc.less(lines["line_min"], lines["line_max"])).sort_by("line_min")
    if twice.num_rows:
        row = twice.slice(0, 1).to_pylist()[0]
        raise LogError(
            f"{file}: expected one line per user, found user {row['user']!r} on the lines {row['line_min']} and "
            f"{row['line_max']}; join them in the order of time"
        )


def _items(path: Path) -> pa.Table:
    remedy = "expected an object of lists, {item: [id, …]}: copy it again, or leave it out"
    values = read_json(path, error=LogError, remedy=remedy)
    for item, ids in values.items():
        if not (isinstance(ids, list) and all(_is_id(value) for value in ids)):
            raise LogError(
                f"{path}: expected a list of ids for item {item!r}, found {json.dumps(ids)[:40]}; correct it"
            )
    attributes = [list(map(str, ids)) for ids in values.values()]
    return pa.table({"item": list(values), "attributes": attributes}, schema=ITEMS)


def _is_id(value: Any) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool)
