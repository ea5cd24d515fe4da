"""From the bytes of a body to the value that a handler takes. Each limit is checked before the work that it bounds.

The size is checked before a body is read, brackets and commas are counted before it is parsed, and features stay bytes
until they are decoded map by map (see wire.py). Large bodies are handled in a thread, which lets the event loop run
between any two of these steps: no step takes longer than the tests in tests/attack allow.
"""

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec
from starlette.requests import Request

from genrank.errors import RequestError, shown

Body = TypeVar("Body")
Made = TypeVar("Made")
INLINE = 16 * 2**10  # bytes up to which a body is handled without a thread, which would cost more than it saves
LEAST_ROWS = 50  # rows whose structure is always allowed, also where fewer rows are
OBJECTS, LISTS = 8, 16  # most { and [ per candidate, event or item

UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
MISSING = re.compile(r"Object missing required field `(.*)`", re.DOTALL)


class MalformedBody(RequestError):
    """The body is not JSON, or not of the form that this path takes."""


class BodyTooLarge(RequestError):
    """The body has more bytes than this path takes."""


@dataclass(frozen=True, kw_only=True)
class BodyLimits:
    """Limits on the bodies of a path. size: bytes; rows: candidates, events or items; values: commas per row."""

    size: int
    rows: int
    values: int

    def check_size(self, size: int) -> None:
        """BodyTooLarge if a body of `size` bytes is too large."""
        if size > self.size:
            raise BodyTooLarge(f"the body has {size} bytes, at most {self.size} are taken here; send less at once")

    def check_structure(self, body: bytes) -> None:
        """RequestError if a body has more structure than `rows` can need: an object takes 25 times its bytes."""
        if len(body) <= INLINE:
            return
        for mark, each in ((b"{", OBJECTS), (b"[", LISTS), (b",", self.values)):
            found, most = body.count(mark), each * max(self.rows, LEAST_ROWS)
            if found > most:
                raise RequestError(
                    f"the body has {found} times {mark.decode()!r}, at most {most} are taken here; send less at once"
                )


class BodyReader(Generic[Body]):
    """Reads the bodies of one path."""

    def __init__(self, kind: type[Body], limits: BodyLimits):
        self.limits = limits
        self._decoder = msgspec.json.Decoder(kind)

    async def take(self, request: Request, use: Callable[[Body], Made]) -> Made:
        """The result of `use` on the body; a large body is decoded and used in a thread.

        Raises BodyTooLarge, MalformedBody, RequestError, and what `use` raises.
        """
        self.limits.check_size(int(request.headers.get("content-length", 0)))
        body = await request.body()
        self.limits.check_size(len(body))
        if len(body) <= INLINE:
            return use(self.decode(body))
        return await asyncio.to_thread(lambda: use(self.decode(body)))

    def decode(self, body: bytes) -> Body:
        """The body as its type. Raises MalformedBody and RequestError."""
        self.limits.check_structure(body)
        return decoded(self._decoder, body)


def decoded(decoder: "msgspec.json.Decoder[Made]", body: bytes | msgspec.Raw, where: str = "") -> Made:
    """The decoded value of the bytes, which are at `where` in a body. MalformedBody names the field."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as problem:
        raise _malformed(str(problem), where) from None
    except msgspec.DecodeError as problem:
        raise MalformedBody(f"{where or 'body'}: {problem}; see /docs") from None
    except UnicodeDecodeError:
        raise MalformedBody(f"{where or 'body'}: not in UTF-8; see /docs") from None
    except RecursionError:
        raise MalformedBody(f"{where or 'body'}: nested too deep; see /docs") from None


def _malformed(message: str, where: str) -> MalformedBody:
    said, _, path = message.rpartition(" - at `$")
    said, path = (said, path.removesuffix("`")) if said else (message, "")
    path = path.replace("[...]", "").replace("[", ".").replace("]", "")
    if found := UNKNOWN.fullmatch(said):
        path, said = f"{path}.{shown(found[1])[1:-1]}", "there is no such field"
    elif found := MISSING.fullmatch(said):
        path, said = f"{path}.{found[1]}", "is missing"
    field = f"{where}{path}".removeprefix(".") or "body"
    return MalformedBody(f"{field}: {said.replace('`', '')}; see /docs")
