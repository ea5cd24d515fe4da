"""MIND (Microsoft News) as published: `behaviors.tsv` with impressions of several news each, and `news.tsv`.

An impression is a request, its rank in the list the position. The click history that comes with an impression has no
times: the history of a user's earliest impression becomes history-only exposures with click 1, a second apart, the last
one an hour before that impression. https://msnews.github.io
"""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from genrank.errors import LogError
from genrank.preparation.engine import Engine, Expression
from genrank.preparation.logs import Relations, Source
from genrank.preparation.text_files import read_published
from genrank.preparation.value_functions import epoch_by_pattern, whole_of
from genrank.schema import Columns, Feature, LogSchema, SideTable, SideTables, Task, Time

BEHAVIORS = dict.fromkeys(("impression", "user", "time", "history", "impressions"), "VARCHAR")
TIME_FORMAT = "%m/%d/%Y %I:%M:%S %p"
HISTORY_GAP = 3600  # seconds between the undated history and the first impression; ours
NEWS = pa.schema([("item", pa.string()), ("category", pa.string()), ("subcategory", pa.string())])


def mind(folder: Path) -> Source:
    """The release in `folder`: `behaviors.tsv` in it, or in its folders (`train`, `dev`), read as one log.

    Raises LogError if there is none.
    """
    behaviors = sorted(folder.rglob("behaviors.tsv"))
    if not behaviors:
        raise LogError(f"{folder}: expected a MIND folder with behaviors.tsv; unpack the archive and give its folder")
    news = sorted(folder.rglob("news.tsv"))

    def read(engine: Engine, _: LogSchema) -> Relations:
        rows = _behaviors(engine, behaviors)
        items = engine.from_arrow(_news(news)) if news else None
        return Relations(exposures=engine.store(_shown(rows).union(_history(rows))), items=items)

    return Source(
        schema=_schema(has_news=bool(news)),
        read=read,
        folder=folder,
        description={"kind": "mind", "files": [path.relative_to(folder).as_posix() for path in (*behaviors, *news)]},
    )


def _schema(*, has_news: bool) -> LogSchema:
    names = ("category", "subcategory") if has_news else ()
    return LogSchema(
        name="mind",
        columns=Columns(user="user", item="item", time="time", request="request", position="position", target="target"),
        tasks=(Task(name="click", kind="binary", column="click"),),
        features=tuple(Feature(name=name, owner="item", kind="categorical", column=name) for name in names),
        time=Time(unit="s"),
        tables=SideTables(item=SideTable(path="news.tsv", key="item") if has_news else None),
    )


def _behaviors(engine: Engine, paths: list[Path]) -> Expression:
    """All impressions with their time in seconds; ids start anew in every file, so the file's number goes before."""
    parts = []
    for number, path in enumerate(paths):
        rows = read_published(engine, [path], BEHAVIORS, separator="\t", header=False, quote="")
        seconds = epoch_by_pattern(rows.time, TIME_FORMAT, None)
        request = engine.ibis.literal(f"{number}:") + rows.impression
        parts.append(rows.select(rows.user, rows.history, rows.impressions, request=request, time=seconds))
    return engine.store(engine.ibis.union(*parts)) if len(parts) > 1 else engine.store(parts[0])


def _shown(rows: Expression) -> Expression:
    """One row per news shown."""
    shown = rows.mutate(shown=rows.impressions.split(" ")).unnest("shown", offset="position")
    shown = shown.filter(shown.shown != "")
    parts = shown.shown.split("-")
    return shown.select(
        user=shown.user,
        item=parts[0],
        time=shown.time,
        request=shown.request,
        position=shown.position.cast("int64"),
        click=whole_of(parts[1]).cast("int8"),
        target=shown.user == shown.user,
    )


def _history(rows: Expression) -> Expression:
    """One row per news in the history of each user's earliest impression."""
    first = rows.group_by(user_id=rows.user).aggregate(first_time=rows.time.min())
    earliest = rows.inner_join(first, [rows.user == first.user_id, rows.time == first.first_time])
    history = earliest.group_by("user").aggregate(history=earliest.history.min(), first_time=earliest.first_time.min())
    clicks = history.mutate(clicked=history.history.split(" "))
    clicks = clicks.mutate(length=clicks.clicked.length().cast("int64")).unnest("clicked", offset="place")
    clicks = clicks.filter(clicks.clicked != "")
    place = clicks.place.cast("int64")
    return clicks.select(
        user=clicks.user,
        item=clicks.clicked,
        time=clicks.first_time - HISTORY_GAP - (clicks.length - 1 - place),
        request="history:" + place.cast("string"),
        position=(place * 0 - 1),
        click=(place * 0 + 1).cast("int8"),
        target=clicks.user != clicks.user,
    )


def _news(paths: list[Path]) -> pa.Table:
    """Category and subcategory of every news, of several files the first one's."""
    rows: dict[str, dict[str, str]] = {}
    for path in paths:
        for item, category, subcategory in _lines(path):
            rows.setdefault(item, {"item": item, "category": category, "subcategory": subcategory})
    return pa.Table.from_pylist(list(rows.values()), schema=NEWS)


def _lines(path: Path) -> Iterator[tuple[str, str, str]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                fields = line.decode().rstrip("\n").split("\t", 3)
            except UnicodeDecodeError:
                raise LogError(f"{path}, line {number}: not UTF-8; unpack the file again") from None
            if len(fields) < 3:
                raise LogError(f"{path}, line {number}: expected news id, category, subcategory; unpack the file again")
            yield fields[0], fields[1], fields[2]
