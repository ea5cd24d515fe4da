"""MovieLens as GroupLens publishes it: 100K (`u.data`), 1M (`ratings.dat`), and 20M, 25M, latest (`ratings.csv`).

A rating is an exposure, `like` a rating of at least 4, a request a user's ratings of one second. There are no
exposures without a rating, so this is a test bed for ranking, not a feed's log. https://grouplens.org/datasets/movielens
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from genrank.errors import LogError, shown
from genrank.preparation.engine import Engine
from genrank.preparation.logs import Relations, Source
from genrank.preparation.text_files import read_published
from genrank.preparation.text_records import records
from genrank.preparation.text_scan import Dialect
from genrank.schema import Columns, Feature, Feedback, LogSchema, SideTable, SideTables, Task, Time

# Order of the flags in u.item, from the data set's u.genre; the first is "unknown".
GENRES_100K = (
    *("Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy"),
    *("Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
)
RATINGS = {"user": "VARCHAR", "item": "VARCHAR", "rating": "DOUBLE", "timestamp": "BIGINT"}
MOVIE = pa.schema([("item", pa.string()), ("genres", pa.list_(pa.string())), ("year", pa.float64())])
USER = pa.schema([("user", pa.string()), ("age", pa.float64()), ("gender", pa.string()), ("occupation", pa.string())])
Rows = Iterator[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One release's file names and ways to read them; `users` is None where there are no users' attributes."""

    name: str
    ratings: str
    movies: str
    users: str | None
    delimiter: str
    header: bool
    read_movies: Callable[[Path], Rows]
    read_users: Callable[[Path], Rows] | None = None


def movielens(folder: Path) -> Source:
    """The MovieLens release in `folder`. Raises LogError if there is none."""
    layout = next((layout for layout in LAYOUTS if (folder / layout.ratings).is_file()), None)
    if layout is None:
        names = ", ".join(layout.ratings for layout in LAYOUTS)
        raise LogError(
            f"{folder}: expected a MovieLens folder with one of {names}; unpack the archive and give its folder"
        )
    movies = folder / layout.movies
    users = folder / layout.users if layout.users is not None else None
    has_movies, has_users = movies.is_file(), users is not None and users.is_file()

    def read(engine: Engine, _: LogSchema) -> Relations:
        return Relations(
            exposures=read_published(
                engine,
                [folder / layout.ratings],
                RATINGS,
                separator=layout.delimiter,
                header=layout.header,
                quote='"' if layout.header else "",
            ),
            items=_table(engine, layout.read_movies(movies), MOVIE) if has_movies else None,
            users=_table(engine, layout.read_users(users), USER) if has_users and layout.read_users and users else None,
        )

    found = [layout.ratings, *([layout.movies] if has_movies else []), *([str(layout.users)] if has_users else [])]
    return Source(
        schema=_schema(layout, has_movies=has_movies, has_users=has_users),
        read=read,
        folder=folder,
        description={"kind": f"movielens-{layout.name}", "files": found},
    )


def _schema(layout: Layout, *, has_movies: bool, has_users: bool) -> LogSchema:
    features: list[Feature] = []
    if has_movies:
        features.append(Feature(name="genres", owner="item", kind="multi", column="genres"))
        features.append(Feature(name="year", owner="item", kind="numeric", column="year"))
    if has_users:
        features.append(Feature(name="age", owner="user", kind="numeric", column="age", num_buckets=8))
        features.append(Feature(name="gender", owner="user", kind="categorical", column="gender"))
        features.append(Feature(name="occupation", owner="user", kind="categorical", column="occupation"))
    return LogSchema(
        name=f"movielens-{layout.name}",
        columns=Columns(user="user", item="item", time="timestamp"),
        tasks=(Task(name="like", kind="binary", column="rating", threshold=4.0),),
        feedback=(Feedback(name="rating", column="rating"),),
        features=tuple(features),
        time=Time(unit="s"),
        tables=SideTables(
            item=SideTable(path=layout.movies, key="item") if has_movies else None,
            user=SideTable(path=str(layout.users), key="user") if has_users else None,
        ),
    )


def _table(engine: Engine, rows: Iterable[dict[str, Any]], schema: pa.Schema) -> Any:
    return engine.from_arrow(pa.Table.from_pylist(list(rows), schema=schema))


def _fields(path: Path, delimiter: str, count: int) -> Iterator[list[str]]:
    for number, line in enumerate(path.read_text(encoding="latin-1").rstrip("\n").split("\n"), start=1):
        fields = line.rstrip("\r").split(delimiter)
        if len(fields) < count:
            raise LogError(
                f"{path}, line {number}: expected {count} fields, found {len(fields)}; unpack the file again"
            )
        yield fields


def _movies_100k(path: Path) -> Rows:
    for fields in _fields(path, "|", 24):
        genres = [genre for genre, flag in zip(GENRES_100K, fields[6:24], strict=True) if flag == "1"]
        yield {"item": fields[0], "genres": genres, "year": _year(fields[2][-4:])}


def _users_100k(path: Path) -> Rows:
    for fields in _fields(path, "|", 4):
        yield {"user": fields[0], "age": _number(path, fields[1]), "gender": fields[2], "occupation": fields[3]}


def _movies_1m(path: Path) -> Rows:
    for item, title, genres, *_ in _fields(path, "::", 3):
        yield {"item": item, "genres": genres.split("|"), "year": _year_of_title(title)}


def _users_1m(path: Path) -> Rows:
    for user, gender, age, occupation, *_ in _fields(path, "::", 4):
        yield {"user": user, "age": _number(path, age), "gender": gender, "occupation": occupation}


def _movies_csv(path: Path) -> Rows:
    dialect = Dialect(separator=",", quote='"', names=("movieId", "title", "genres"), quote_given=True)
    for row in records(path, path, dialect):
        item, title, genres = row.values
        listed = [genre for genre in genres.split("|") if genre != "(no genres listed)"]
        yield {"item": item, "genres": listed, "year": _year_of_title(title)}


def _number(path: Path, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise LogError(f"{path}: expected an age in numbers, found {shown(text)}; unpack the file again") from None


def _year_of_title(title: str) -> float | None:
    """The year of a title such as "Heat (1995)"."""
    found = re.search(r"\((\d{4})[^)]*\)\s*$", title)
    return _year(found.group(1)) if found else None


def _year(text: str) -> float | None:
    return float(text) if text.isdigit() else None


LAYOUTS = (
    Layout(
        name="100k",
        ratings="u.data",
        movies="u.item",
        users="u.user",
        delimiter="\t",
        header=False,
        read_movies=_movies_100k,
        read_users=_users_100k,
    ),
    Layout(
        name="1m",
        ratings="ratings.dat",
        movies="movies.dat",
        users="users.dat",
        delimiter="::",
        header=False,
        read_movies=_movies_1m,
        read_users=_users_1m,
    ),
    Layout(
        name="csv",
        ratings="ratings.csv",
        movies="movies.csv",
        users=None,
        delimiter=",",
        header=True,
        read_movies=_movies_csv,
    ),
)
