"""Ways in which a file goes bad: cut, zeroed, flipped, replaced, deleted; and JSON that is whole and says the wrong."""

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Mutation = Callable[[Path, random.Random], None]

CONTENTS = {
    "empty": b"",
    "NULs": b"\0" * 512,
    "deep lists": b"[" * 100_000,
    "deep tables": b'{"a":' * 50_000,
    "digits": b"9" * 5000,
    "digits in a table": b'{"format": ' + b"9" * 5000 + b"}",
    "no numbers": b'{"format": NaN, "a": Infinity}',
    "a list": b"[1, 2]",
    "null": b"null",
    "text": b'"text"',
    "no UTF-8": b"\xff\xfe\xfd\x80",
    "a byte order mark": b"\xef\xbb\xbf",
    "half a character": b'{"format": "\\ud800"}',
    "a path": b"../../../etc\n",
    "a long name": b"a" * 300 + b"\n",
    "a NUL in a name": b"a\0b\n",
}
VALUES: tuple[Any, ...] = (None, [], {}, "x" * 5000, "a\0b", -1, 1e308, 10**30, True, [[[]]], {"a": None}, float("nan"))


def _cut(path: Path, chance: random.Random) -> None:
    os.truncate(path, chance.randrange(max(path.stat().st_size, 1)))


def _zero(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    begin = chance.randrange(max(len(content), 1))
    content[begin : begin + 64] = b"\0" * len(content[begin : begin + 64])
    path.write_bytes(content)


def _flip(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(min(8, len(content))):
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


def _noise(path: Path, chance: random.Random) -> None:
    path.write_bytes(chance.randbytes(256))


def _delete(path: Path, _: random.Random) -> None:
    path.unlink()


def _folder(path: Path, _: random.Random) -> None:
    path.unlink()
    path.mkdir()


def _dangle(path: Path, _: random.Random) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def _circle(path: Path, _: random.Random) -> None:
    path.unlink()
    path.symlink_to(path.name)


BROKEN: dict[str, Mutation] = {
    "deleted": _delete,
    "a folder": _folder,
    "a link to nothing": _dangle,
    "a link to itself": _circle,
    "noise": _noise,
    **{f"cut {number}": _cut for number in range(4)},
    **{f"zeroed {number}": _zero for number in range(2)},
    **{f"flipped {number}": _flip for number in range(6)},
    **{
        name: lambda path, _, content=content: path.write_bytes(content)  # type: ignore[misc]
        for name, content in CONTENTS.items()
    },
}


def edits(path: Path, most: int) -> dict[str, Mutation]:
    """Of a JSON file: at most `most` values, anywhere in it, that become another one each."""
    places = list(_places(json.loads(path.read_text(encoding="utf-8"))))
    chance = random.Random(path.name)
    chosen = [(place, chance.choice(VALUES)) for place in chance.choices(places, k=most)] if places else []
    return {f"{'.'.join(map(str, place))} = {str(value)[:20]!r}": _edit(place, value) for place, value in chosen}


def _edit(place: tuple[Any, ...], value: Any) -> Mutation:
    def change(path: Path, _: random.Random) -> None:
        content = json.loads(path.read_text(encoding="utf-8"))
        *parents, last = place
        inner = content
        for name in parents:
            inner = inner[name]
        inner[last] = value
        path.write_text(json.dumps(content), encoding="utf-8")

    return change


def _places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in entries:
        yield (*at, name)
        yield from _places(inner, (*at, name))


@contextmanager
def mutated(path: Path, mutation: Mutation, seed: str) -> Iterator[None]:
    """The file, gone bad; as it was when the block ends."""
    before = path.read_bytes()
    mutation(path, random.Random(seed))
    try:
        yield
    finally:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        path.write_bytes(before)
