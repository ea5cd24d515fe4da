"""Everything genrank raises on purpose.

    GenRankError                 a failure with an explanation (exit code 1)
    ├── TrainingDiverged         the loss is no longer a number
    ├── Interrupted              stopped by the user, with a checkpoint (exit code 130)
    └── InputError               the user can fix it (exit code 2)
        ├── ConfigError          a setting: unknown key, wrong type, out of range, unknown recipe
        ├── SchemaError          the log schema: malformed, or it names a column that does not exist
        ├── LogError             the exposure log: empty, damaged, a column that cannot be read
        ├── DataError            a prepared folder: missing, damaged, of another schema
        ├── BundleError          a run or model bundle: missing, damaged, of another schema
        ├── RequestError         a ranking request: unknown candidates, none at all
        ├── OutputError          a path to write to: not empty, not writable, no space left
        └── MissingExtraError    an optional dependency that is not installed

A message says, in one line, what was expected, what was found, where, and how to fix it. `shown` writes what was
found.
"""

import reprlib
from itertools import islice
from typing import Any

LONGEST_SHOWN = 200  # characters of a caller's value in a message


class GenRankError(Exception):
    """Base of all errors raised on purpose."""


class TrainingDiverged(GenRankError):
    """The loss became NaN or infinite; the message names the step and the last good checkpoint."""


class Interrupted(GenRankError):
    """The user stopped a run; it left a checkpoint from which it can be resumed."""


class InputError(GenRankError):
    """Something the user gave can't be used; the message says how to fix it."""


class ConfigError(InputError):
    """A setting or recipe that does not exist or has a value outside its range."""


class SchemaError(InputError):
    """A log schema that is malformed or names a column that does not exist."""


class LogError(InputError):
    """An exposure log that can't be read as the schema says."""


class DataError(InputError):
    """A prepared folder that is missing, damaged or of another schema."""


class BundleError(InputError):
    """A run or model bundle that is missing, incomplete, damaged or of another schema."""


class RequestError(InputError):
    """A ranking request that can't be answered."""


class OutputError(InputError):
    """A path that can't be written to."""


class MissingExtraError(InputError):
    """An optional dependency is missing; the message names the extra to install."""


class _Short(reprlib.Repr):
    """Reads no more of a value than it shows, so that a large or deep one costs nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = LONGEST_SHOWN
        self.maxlist = self.maxtuple = self.maxdict = 8

    def repr_dict(self, x: dict[Any, Any], level: int) -> str:
        """The first entries in their order; the inherited method sorts all entries."""
        if level <= 0:
            return "{...}"
        shown = [f"{self.repr1(key, level - 1)}: {self.repr1(x[key], level - 1)}" for key in islice(x, self.maxdict)]
        return "{" + ", ".join(shown + ["..."] * (len(x) > self.maxdict)) + "}"

    def repr_int(self, x: int, level: int) -> str:
        """A description instead of the digits where there are over 198: Python refuses to write the longest."""
        return super().repr_int(x, level) if x.bit_length() < 660 else "a whole number of over 198 digits"


_SHORT = _Short()


def shown(value: object) -> str:
    """The value as `repr` writes it, in at most 200 characters and one line: for messages that name what was found."""
    text = " ".join(_SHORT.repr(value).splitlines())
    return text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 3] + "..."
