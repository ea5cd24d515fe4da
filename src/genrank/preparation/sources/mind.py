"""MIND (Microsoft News) as published: `behaviors.tsv` with impressions of several news each, and `news.tsv`.

An impression is a request, its rank in the list the position. The click history that comes with an impression has no
times: see preparation/history_events.py for those that it gets. `examples/schemas/mind.toml` is the same schema for one
file. https://msnews.github.io
"""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from genrank.errors import LogError
from genrank.log_settings import CsvSettings, HistoryLists, HistorySettings, ListSettings
from genrank.preparation.engine import Engine
from genrank.preparation.logs import Relations, Source
from genrank.preparation.sources.files import exposures_of, read_table
from genrank.schema import Columns, Feature, LogSchema, SideTable, SideTables, Task, Time

BEHAVIORS = ("impression", "user", "time", "history", "impressions")
NEWS = pa.schema([("item", pa.string()), ("category", pa.string()), ("subcategory", pa.string())])


def mind(folder: Path) -> Source:
    """The release in `folder`: `behaviors.tsv` in it, or in its folders (`train`, `dev`), read as one log.

    Raises LogError if there is none.
    """
    behaviors = sorted(folder.rglob("behaviors.tsv"))
    if not behaviors:
        raise LogError(f"{folder}: expected a MIND folder with behaviors.tsv; unpack the archive and give its folder")
    news = sorted(folder.rglob("news.tsv"))

    def read(engine: Engine, schema: LogSchema) -> Relations:
        rows = read_table(engine, behaviors, schema, None)
        exposures, derived, warnings = exposures_of(engine, rows, schema, folder)
        items = engine.from_arrow(_news(news)) if news else None
        return Relations(exposures=exposures, items=items, derived=derived, warnings=tuple(warnings))

    return Source(
        schema=_schema(has_news=bool(news)),
        read=read,
        folder=folder,
        description={"kind": "mind", "files": [path.relative_to(folder).as_posix() for path in (*behaviors, *news)]},
    )


def _schema(*, has_news: bool) -> LogSchema:
    """Without impression ids, which start anew in every file: every row is a request."""
    names = ("category", "subcategory") if has_news else ()
    return LogSchema(
        name="mind",
        columns=Columns(user="user", item="impressions", time="time"),
        tasks=(Task(name="click", kind="binary", column="click"),),
        features=tuple(Feature(name=name, owner="item", kind="categorical", column=name) for name in names),
        time=Time(format="%m/%d/%Y %I:%M:%S %p", zone="UTC"),
        csv=CsvSettings(separator="\t", quote="", columns=BEHAVIORS),
        lists=ListSettings(separator=" ", label="click"),
        history=HistorySettings(lists=HistoryLists(items="history", separator=" ", labels={"click": 1})),
        tables=SideTables(item=SideTable(path="news.tsv", key="item") if has_news else None),
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
