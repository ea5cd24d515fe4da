"""Proposes a log's schema: a TOML file with the reason of every guess, and what to check.

Roles are guessed by names, types and units by the values of the first rows. Doubtful settings are commented out.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from genrank.preparation import column_names as hints
from genrank.preparation.column_facts import ColumnFacts, column_facts
from genrank.preparation.feature_guesses import feature_blocks
from genrank.preparation.log_sample import LogSample, sample_log
from genrank.preparation.task_guesses import TaskGuesses, guess_tasks
from genrank.preparation.toml_lines import block, comment, quoted, setting

NEEDED = {
    "user": "who was shown something: a column with the user's id",
    "item": "what was shown: a column with the item's id",
    "time": "when it was shown: seconds, milliseconds, timestamps or ISO text",
}
OPTIONAL = {
    "request": "a column with one id for what was shown together; without it, exposures of one user and second",
    "position": "the slot in the feed, a whole number from 0 or 1",
    "target": "0 or false where a row is history only, neither learned from nor judged",
}


@dataclass(frozen=True, kw_only=True)
class ProposedSchema:
    """The TOML text, and the roles that `prepare` needs and no column was found for."""

    text: str
    missing: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Roles:
    found: dict[str, ColumnFacts]
    reasons: dict[str, str]  # of those found, and of those that are left out
    lists: tuple[ColumnFacts, ...] = ()  # columns of items acted on, where the items are lists
    history: ColumnFacts | None = None  # lists of what users did before


def propose_schema(paths: Sequence[Path]) -> ProposedSchema:
    """Look at the beginning of the log's first file, and propose a schema. LogError for what is no log."""
    sample = sample_log(paths)
    columns = [column_facts(name, sample.rows[name]) for name in sample.rows.column_names]
    roles = _roles(columns, sample.rows.num_rows)
    used = {column.name for column in (*roles.found.values(), *roles.lists)}
    used |= {roles.history.name} if roles.history is not None else set()
    rest = [column for column in columns if column.name not in used]
    tasks = guess_tasks(rest, roles.lists, item=roles.found.get("item"))
    rest = [column for column in rest if column.name not in tasks.used]
    lines = [
        *_head(sample, tasks, columns, given=paths[0]),
        *_columns(roles),
        *_time(roles.found.get("time")),
        *_dialect(sample, columns),
        *_lists(roles),
        *tasks.lines,
        *_history(roles.history, tasks, columns),
        *feature_blocks(rest, tasks, user=roles.found.get("user"), item=roles.found.get("item")),
        *_side_tables(),
    ]
    return ProposedSchema(
        text="\n".join(lines).rstrip() + "\n", missing=tuple(r for r in NEEDED if r not in roles.found)
    )


def _roles(columns: list[ColumnFacts], num_rows: int) -> _Roles:
    found, reasons = dict[str, ColumnFacts](), dict[str, str]()
    ids = [c for c in columns if c.kind in ("text", "integer") and not c.format]
    for role, names in (("user", hints.USER), ("item", hints.ITEM)):
        column = hints.named([c for c in ids if c not in found.values()], names)
        if column is not None:
            found[role] = column
            reasons[role] = f"by its name; {column.num_distinct:,} different ones in the sample, as {column.example!r}"
    lists: list[ColumnFacts] = []
    shown = hints.named([c for c in columns if c.kind == "list"], hints.SHOWN)
    if "item" not in found and shown is not None:
        found["item"], reasons["item"] = shown, "a list: one row per request, each of its items is an exposure"
        lists = [c for c in columns if c.kind == "list" and set(hints.words(c.name)) & hints.ACTIONS]
    _find_time(columns, found, reasons)
    left = [c for c in columns if c not in found.values()]
    request = hints.named([c for c in left if c.kind in ("text", "integer")], hints.REQUEST)
    if request is not None:
        _find_request(request, found, reasons, num_rows)
    slots = [c for c in left if c.kind in ("integer", "truth") and c.numbers is not None and np.nanmin(c.numbers) >= 0]
    flags = [c for c in left if c.kind == "truth"]
    others = {"position": hints.named(slots, hints.POSITION), "target": hints.named(flags, hints.TARGET)}
    for role, column in others.items():
        if column is not None:
            found[role], reasons[role] = column, f"by its name; as {column.example!r}"
    pasts = [c for c in columns if c.kind == "list" and c not in found.values() and hints.of_the_past(c.name)]
    lists = [c for c in lists if c not in pasts]
    return _Roles(found=found, reasons=reasons, lists=tuple(lists), history=next(iter(pasts), None))


def _find_time(columns: list[ColumnFacts], found: dict[str, ColumnFacts], reasons: dict[str, str]) -> None:
    times = [c for c in columns if (c.unit or c.format) and c not in found.values()]
    column = hints.named(times, hints.TIME)
    if column is None:
        times = [c for c in times if not set(hints.words(c.name)) & (hints.ACTIONS | {"birth", "published", "upload"})]
        clear = [c for c in times if {"time", "at", "date", "ts", "timestamp"} & set(hints.words(c.name))]
        column = next(iter(clear or times), None)
        if column is None:
            return
        reasons["time"] = f"a guess by its values, as {column.example!r}: is it when the item was shown?"
    else:
        reasons["time"] = f"by its name; as {column.example!r}"
    found["time"] = column


def _find_request(column: ColumnFacts, found: dict[str, ColumnFacts], reasons: dict[str, str], num_rows: int) -> None:
    if "session" in column.name.lower():
        reasons["request"] = f"{column.name!r} is a session, by its name: name it only if all of it was shown at once"
    elif column.num_distinct == num_rows > 1 and found.get("item", column).kind != "list":
        reasons["request"] = (
            f"{column.name!r} differs in every row, so it doesn't say which exposures were shown together"
        )
    else:
        found["request"] = column
        reasons["request"] = f"by its name; {column.num_distinct:,} different ones in {num_rows:,} rows"


def _head(sample: LogSample, tasks: TaskGuesses, columns: list[ColumnFacts], *, given: Path) -> Iterator[str]:
    yield from comment(
        f"Proposed by genrank schema from the first {sample.rows.num_rows:,} rows of {sample.path.name}, "
        f"{len(columns)} columns. Every line is a guess: check what its comment says, then run genrank prepare "
        f"{given} --schema THIS.toml --out data, and read what it warns of."
    )
    if sample.skipped:
        yield from comment(
            f"{sample.skipped:,} rows of the sample are longer or shorter than the header. prepare will refuse the "
            "file and name the line."
        )
    if sample.repeated:
        yield from comment(f"Several columns are called {', '.join(sample.repeated)}: rename all but one to use them.")
    if not tasks.found:
        yield from comment(
            "No task was found. Without [[tasks]] every row counts as a positive event (a purchase, say): enough for "
            "retrieval, not for ranking."
        )
    yield setting("name", "log" if "*" in given.name else given.name.split(".")[0] or "log")
    yield ""


def _columns(roles: _Roles) -> Iterator[str]:
    yield "[columns]"
    for role, what in (NEEDED | OPTIONAL).items():
        if role in roles.found:
            yield from comment(roles.reasons[role])
            yield setting(role, roles.found[role].name)
        elif role in NEEDED:
            yield from comment(f"needed, and not found by name. {what}")
            yield f'# {role} = "…"'
        else:
            yield from comment(roles.reasons.get(role, f"optional, none found: {what}"))
            yield f'# {role} = "…"'
    yield ""


def _time(column: ColumnFacts | None) -> Iterator[str]:
    if column is None:
        return
    yield "[time]"
    if column.format:
        yield from comment(f"by values such as {column.example!r}; check that day and month aren't swapped")
        yield setting("format", column.format)
    elif column.unit == "auto":
        yield from comment(f"timestamps or ISO text, as {column.example!r}")
        yield setting("unit", "auto")
    else:
        yield from comment(f"by the size of values such as {column.example}: only so are they dates from 1995 on")
        yield setting("unit", column.unit)
    if not column.zoned:
        yield from comment("the times name no zone; without this line they count as UTC. Whose clock wrote them?")
        yield '# zone = "Europe/Berlin"'
    yield ""


def _dialect(sample: LogSample, columns: list[ColumnFacts]) -> Iterator[str]:
    comma = [column.name for column in columns if column.comma]
    if sample.encoding is None and not comma:
        return
    yield "[csv]"
    if sample.encoding is not None:
        yield from comment(
            "the file is not UTF-8; this is a guess: look at letters with accents, or set latin-1, gb18030"
        )
        yield setting("encoding", sample.encoding)
    if comma:
        yield from comment(f"by numbers such as those of {comma[0]!r}")
        yield setting("decimal", ",")
    yield ""


def _lists(roles: _Roles) -> Iterator[str]:
    if not roles.lists:
        return
    yield "[lists]"
    yield from comment("lists of the items acted on: 1 for those, 0 for the others that were shown")
    yield f"acted = [{', '.join(quoted(column.name) for column in roles.lists)}]"
    yield ""


def _history(column: ColumnFacts | None, tasks: TaskGuesses, columns: list[ColumnFacts]) -> Iterator[str]:
    """The lists of earlier items; active if a task is surely binary: the first of those is then their label."""
    if column is None:
        return
    binary = any(each.name in tasks.used and each.kind in ("truth", "list") for each in columns)
    label = f"{{ {tasks.found[0]} = 1 }}" if tasks.found and binary else '{ "…" = 1 }'
    why = (
        f"{column.name!r} is a list, by its name of what the user did before the request; each of its items becomes "
        "history. Check what was done, and that none of it is later"
    )
    lines = [setting("items", column.name), f"labels = {label}"]
    yield from block("[history.lists]", lines, why=why, active=bool(tasks.found) and binary)


def _side_tables() -> Iterator[str]:
    yield from comment(
        "Where features of items (or users) lie in a table of their own: name it here, and give the features owner = "
        '"item".'
    )
    yield from block("[tables.item]", [setting("path", "items.parquet"), setting("key", "item_id")], active=False)
