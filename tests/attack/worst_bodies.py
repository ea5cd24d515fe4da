"""The bodies that have cost most of their bytes: a path, a body, and the statuses that may answer it."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

MIB = 2**20
REFUSED = (400, 413, 422)
TAKEN = (200, *REFUSED, 503)  # a valid body may cost as much as a wrong one
RANK = b'{"user":"u","candidates":["a"],"context":'
EVENT = b'{"events":[{"user":"u","item":"i","time":1,"context":'
ITEM = b'{"items":[{"item":"i","features":'
SLOW_NUMBER = b"1.2345678901234567e-301"  # readers of numbers take their longest way for it


@dataclass(frozen=True, kw_only=True)
class Attack:
    """One request."""

    name: str
    path: str
    body: bytes
    method: str = "POST"
    statuses: tuple[int, ...] = REFUSED


def repeated(head: bytes, unit: bytes, tail: bytes, size: int) -> bytes:
    """`size` bytes of one element, over and over."""
    return head + b",".join([unit] * ((size - len(head) - len(tail)) // (len(unit) + 1))) + tail


def values(path: str, feature: bytes, head: bytes, tail: bytes) -> list[Attack]:
    """A map of features that holds the dearest values, as large as a path takes and just below where it is refused."""
    method = "PUT" if path == "/v1/items" else "POST"
    units = {
        "objects": b"{}", "lists": b"[]", "small objects": b'{"a":1}', "small lists": b"[1]", "ones": b"1",
        "letters": b'"a"', "emoji": '"\U0001f600"'.encode(), "slow numbers": SLOW_NUMBER, "nulls": b"null",
        "escapes": b'"\\u0000"', "decimals": b"1.5",
    }  # fmt: skip
    found = [
        Attack(
            name=f"{path}: {kind} as {name.decode()} {size // 1000} kB", path=path, method=method, statuses=TAKEN,
            body=repeated(head + b'{"%s":[' % name, unit, b"]}" + tail, size),
        )
        for kind, unit in units.items()
        for name, size in ((feature, 79_000), (b"a", 79_000), (b"a", 4 * MIB))
    ]  # fmt: skip
    bodies = {
        "distinct names": b"{" + b",".join(b'"%x":1' % n for n in range(9000)) + b"}",
        "distinct names of lists": b"{" + b",".join(b'"%x":[]' % n for n in range(9000)) + b"}",
        "one name over and over": b"{" + b",".join([b'"a":{}'] * 500_000) + b"}",
        "a long string": b'{"a":"' + b"x" * 4_000_000 + b'"}',
        "a wide string": b'{"a":"' + "\U0001f600".encode() + b"x" * 4_000_000 + b'"}',
        "a string of escapes": b'{"a":"' + rb"\u0000" * 600_000 + b'"}',
        "a long name": b'{"' + b"x" * 4_000_000 + b'":1}',
        "a map of 400 kB": json.dumps({"a": {f"key{n}": n for n in range(25_000)}}).encode(),
        "depth": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        "depth of lists": b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        "a number of 5,000 digits": b'{"a":1%s}' % (b"0" * 5000),
        "a number of 1,000,000 digits": b'{"a":1%s}' % (b"0" * 1_000_000),
        "an infinite number": b'{"a":1e999}',
        "half a surrogate": rb'{"a":"\ud800"}',
        "no UTF-8": b'{"a":"\xff\xfe"}',
    }
    found += [Attack(name=f"{path}: {kind}", path=path, method=method, body=head + body + tail, statuses=TAKEN)
              for kind, body in bodies.items()]  # fmt: skip
    return found


def of_rank() -> list[Attack]:
    """Bodies of /v1/rank."""
    names = [f"c{n}" for n in range(2000)]

    def asked(candidates: list[Any], **more: Any) -> bytes:
        return json.dumps({"user": "u", "candidates": candidates, **more}).encode()

    one = [{"item": "x", "context": {f"f{n}": 1 for n in range(1000)}}]
    bodies = {
        "2,000 candidates": asked(names),
        "2,000 long candidates": asked([f"{name:x>250}" for name in names]),
        "2,000 with a context each": asked(
            [{"item": name, "context": {"device": "phone", "item_age": n / 7}} for n, name in enumerate(names)]
        ),
        "2,000 with a name each": asked([{"item": name, "context": {f"f{name}": 1}} for name in names]),
        "one with 1,000 names": asked([*names[1:], *one]),
        "2,000 with 20 slow numbers each": b'{"user":"u","candidates":[%s]}'
        % b",".join(b'{"item":"%d","context":{"a":[%s]}}' % (n, b",".join([SLOW_NUMBER] * 20)) for n in range(2000)),
        "a list for each": asked(names, context={"device": ["phone"] * 2000, "item_age": [n / 7 for n in range(2000)]}),
        "16 kB of values": json.dumps(
            {
                "user": "u",
                "candidates": [f"{n:x}" for n in range(950)],
                "context": {"item_age": [1.5] * 950, "device": ["a"] * 950},
            },
            separators=(",", ":"),
        ).encode(),
        "one letter over and over": repeated(b'{"user":"u","candidates":[', b'"a"', b"]}", 2 * MIB - 10),
        "one letter, just taken": repeated(b'{"user":"u","candidates":[', b'"a"', b"]}", 127_000 * 4),
        "empty candidates": repeated(b'{"user":"u","candidates":[', b'{"item":"a"}', b"]}", 15_900 * 13),
        "many weights": asked(names[:1], value={f"t{n}": 1.0 for n in range(60_000)}),
        "many tasks": asked(names[:1], tasks=["click"] * 120_000),
        "a long task": asked(names[:1], tasks=["x" * 256] * 4000),
        "spaces": b" " * (2 * MIB - 1),
        "one user over and over": b'{"candidates":["a"],' + b",".join([b'"user":"u"'] * 100_000) + b"}",
    }
    return [Attack(name=f"/v1/rank: {kind}", path="/v1/rank", body=body, statuses=TAKEN)
            for kind, body in bodies.items()]  # fmt: skip


def of_writes() -> list[Attack]:
    """Bodies of /v1/events and /v1/items."""
    event = {"user": "u", "item": "i", "time": 1, "actions": {"click": True}, "context": {"device": "phone"}}
    events = [event | {"item": f"i{n}", "time": n} for n in range(1000)]
    slow = b",".join([SLOW_NUMBER] * 150)
    each = b'{"user":"u","item":"i","time":1,"context":{"a":[%s]}}'
    bodies: dict[str, tuple[str, bytes]] = {
        "1,000 events": ("/v1/events", json.dumps({"events": events}).encode()),
        "1,000 events of 3.5 kB": ("/v1/events", b'{"events":[%s]}' % b",".join([each % slow] * 1000)),
        "events of nothing": ("/v1/events", repeated(b'{"events":[', b"{}", b"]}", 4 * MIB)),
        "100,000 small events": (
            "/v1/events", repeated(b'{"events":[', b'{"user":"u","item":"i","time":1}', b"]}", 4 * MIB),
        ),
        "numbers as events": ("/v1/events", repeated(b'{"events":[', b"1", b"]}", 4 * MIB)),
        "400 items of 10 kB": (
            "/v1/items",
            b'{"items":[%s]}' % b",".join(b'{"item":"i","features":{"e":[%s]}}' % (b",".join([SLOW_NUMBER] * 400))
                                          for n in range(400)),
        ),
        "1,000,000 numbers": ("/v1/items", repeated(ITEM + b'{"e":[', b"1.5", b"]}}]}", 4 * MIB)),
        "small items": ("/v1/items", repeated(b'{"items":[', b'{"item":"a"}', b"]}", 4 * MIB)),
    }  # fmt: skip
    return [
        Attack(name=f"{path}: {kind}", path=path, body=body, statuses=TAKEN,
               method="PUT" if path == "/v1/items" else "POST")
        for kind, (path, body) in bodies.items()
    ]  # fmt: skip


def of_retrieval() -> list[Attack]:
    """Bodies of /v1/retrieve and /v1/recommend."""
    without = {f"feature{n}": ["a"] * 100 for n in range(1000)}
    bodies = {
        "excluded": json.dumps({"user": "u", "exclude": [f"i{n}" for n in range(60_000)]}).encode(),
        "a letter excluded over and over": repeated(b'{"user":"u","exclude":[', b'"a"', b"]}", 49_000 * 4),
        "without many features": json.dumps({"user": "u", "without": without}).encode(),
        "without many authors": json.dumps({"user": "u", "without": {"author": ["a"] * 100_000}}).encode(),
        "without one feature over and over": b'{"user":"u","without":{' + b",".join([b'"author":[]'] * 9_000) + b"}}",
    }
    return [Attack(name=f"{path}: {kind}", path=path, body=body, statuses=TAKEN)
            for kind, body in bodies.items() for path in ("/v1/retrieve", "/v1/recommend")]  # fmt: skip


def all_attacks() -> list[Attack]:
    """All of them."""
    maps: list[Callable[[], list[Attack]]] = [
        lambda: values("/v1/rank", b"item_age", RANK, b"}"),
        lambda: values("/v1/events", b"device", EVENT, b"}]}"),
        lambda: values("/v1/items", b"tags", ITEM, b"}]}"),
        lambda: values("/v1/recommend", b"device", b'{"user":"u","context":', b"}"),
    ]
    plain = [
        Attack(name=f"{path}: {kind}", path=path, method=method, body=body)
        for path, method in (("/v1/rank", "POST"), ("/v1/events", "POST"), ("/v1/items", "PUT"))
        for kind, body in {
            "4 MB of {}": b"{}" * (2 * MIB), "4 MB of []": repeated(b"[", b"[]", b"]", 4 * MIB),
            "4 MB of {} in a list": repeated(b"[", b"{}", b"]", 4 * MIB), "4 MB of [": b"[" * (4 * MIB),
            "4 MB of nothing": b"\xff" * (4 * MIB), "100,000 levels": b'{"a":' * 100_000,
        }.items()
    ]  # fmt: skip
    users = [Attack(name="/v1/users: 60 kB", path="/v1/users/" + "u" * 60_000, method="GET", body=b"")]
    return [*users, *plain, *of_rank(), *of_writes(), *of_retrieval(), *(each for made in maps for each in made())]
