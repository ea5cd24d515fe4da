"""Everything genrank raises on purpose.

    GenRankError                 a failure with an explanation (exit code 1)
    ├── TrainingDiverged         the loss is no longer a number
    ├── Interrupted              stopped by the user, with a checkpoint (exit code 130)
    └── InputError               the user can mend it (exit code 2)
        ├── ConfigError          a setting: unknown key, wrong type, out of range, unknown recipe
        ├── SchemaError          the log schema: malformed, or it names what does not exist
        ├── LogError             the exposure log: empty, damaged, a column that cannot be read
        ├── DataError            a prepared folder: missing, damaged, of another schema
        ├── BundleError          a run or model bundle: missing, damaged, of another schema
        ├── RequestError         a ranking request: unknown candidates, none at all
        ├── OutputError          a place to write to: not empty, not writable, no space left
        └── MissingExtraError    an optional dependency that is not installed

A message says, in one line, what was expected, what was found, where, and how to mend it.
"""


class GenRankError(Exception):
    """Base of all errors raised on purpose."""


class TrainingDiverged(GenRankError):
    """The loss became NaN or infinite; the message names the step and the last good checkpoint."""


class Interrupted(GenRankError):
    """The user stopped a run; it left a checkpoint to go on from."""


class InputError(GenRankError):
    """Something the user gave can't be used; the message says how to mend it."""


class ConfigError(InputError):
    """A setting or recipe that does not exist or has a value outside its range."""


class SchemaError(InputError):
    """A log schema that is malformed or refers to what does not exist."""


class LogError(InputError):
    """An exposure log that can't be read as the schema says."""


class DataError(InputError):
    """A prepared folder that is missing, damaged or of another schema."""


class BundleError(InputError):
    """A run or model bundle that is missing, incomplete, damaged or of another schema."""


class RequestError(InputError):
    """A ranking request that can't be answered."""


class OutputError(InputError):
    """A place that can't be written to."""


class MissingExtraError(InputError):
    """An optional dependency is missing; the message names the extra to install."""
