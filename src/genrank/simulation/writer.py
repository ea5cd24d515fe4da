"""The simulated log as files: the input of `prepare`, and the true probabilities."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from genrank.simulation.population import AGE_GROUPS, COUNTRIES, DEVICES, Population
from genrank.simulation.simulated_items import TAGS_PER_TOPIC, SimulatedItems

Array = NDArray[Any]

BINARY_TASKS = ("click", "like", "follow")
_ROW_GROUP = 1_000_000
# Dictionaries save space in columns with few values; probabilities have as many values as rows.
_DICTIONARY = ["user_id", "item_id", "device", "position", "topic", "author", "age_group", "country"]
_MOODS = (
    "daily",
    "diy",
    "funny",
    "howto",
    "live",
    "new",
    "review",
    "trending",
)  # tags that are independent of the topic
_MOOD_SHARE = 0.4

_SCHEMA_TOML = """\
# The roles of the simulated log's columns, for `genrank prepare exposures --schema schema.toml`.
name = "simulated_feed"
oracle = { click = "p_click", like = "p_like", follow = "p_follow" }

[columns]
user = "user_id"
item = "item_id"
time = "timestamp"
request = "request_id"
position = "position"

[time]
unit = "s"

[[tasks]]
name = "click"
kind = "binary"
column = "click"

[[tasks]]
name = "like"
kind = "binary"
column = "like"

[[tasks]]
name = "follow"
kind = "binary"
column = "follow"

[[tasks]]
name = "dwell"
kind = "duration"
column = "dwell_ms"
unit = "ms"
censored = "dwell_censored"
group = "length"

[[features]]
name = "topic"
owner = "item"
kind = "categorical"
column = "topic"

[[features]]
name = "author"
owner = "item"
kind = "categorical"
column = "author"

[[features]]
name = "tags"
owner = "item"
kind = "multi"
column = "tags"

[[features]]
name = "length"
owner = "item"
kind = "numeric"
column = "length_seconds"

[[features]]
name = "content"
owner = "item"
kind = "embedding"
file = "content.npy"

[[features]]
name = "age_group"
owner = "user"
kind = "categorical"
column = "age_group"

[[features]]
name = "country"
owner = "user"
kind = "categorical"
column = "country"

[[features]]
name = "device"
owner = "exposure"
kind = "categorical"
column = "device"

[[features]]
name = "item_age"  # hours since publication, at the time of the exposure: a feature of the exposure, not of the item
owner = "exposure"
kind = "numeric"
column = "item_age_hours"

[tables.item]
path = "items.parquet"
key = "item_id"

[tables.user]
path = "users.parquet"
key = "user_id"
"""


def schema_toml(*, late: bool) -> str:
    """The log's schema. late: with the columns of the actions' times."""
    if not late:
        return _SCHEMA_TOML
    schema = _SCHEMA_TOML.replace('position = "position"\n', 'position = "position"\nknown_at = "known_at"\n')
    for task in BINARY_TASKS:
        schema = schema.replace(f'column = "{task}"\n', f'column = "{task}"\ntime = "{task}_time"\n')
    return schema


def write_exposures(path: Path, columns: dict[str, Array], *, first_request: int) -> None:
    """One part of the log, from the columns of `Shard.run`; its requests are numbered from `first_request`."""
    click = columns["click"]
    table = pa.table(
        {
            "user_id": _names("u", columns["user"]),
            "item_id": _names("i", columns["item"]),
            "request_id": columns["request"] + first_request,
            "timestamp": columns["timestamp"],
            "position": columns["position"],
            "device": _labels(DEVICES, columns["device"]),
            "item_age_hours": columns["age_hours"],
            **{task: columns[task].astype(np.int8) for task in BINARY_TASKS},
            "dwell_ms": pa.array(columns["dwell_ms"].astype(np.int64), mask=~click),
            "dwell_censored": columns["dwell_censored"],
            "is_random": columns["is_random"],
            **{f"p_{task}": columns[f"p_{task}"] for task in BINARY_TASKS},
            **_times(columns),
        }
    )
    _write(table, path)


def _times(columns: dict[str, Array]) -> dict[str, pa.Array]:
    """The times of the actions, if `columns` has their delays after the request."""
    named = {f"{task}_time": columns.get(f"{task}_after") for task in BINARY_TASKS}
    named["known_at"] = columns.get("known_after")
    return {
        name: pa.array(columns["timestamp"] + after, mask=after < 0)
        for name, after in named.items()
        if after is not None
    }


def write_items(folder: Path, catalogue: SimulatedItems, rng: np.random.Generator) -> None:
    """items.parquet and content.npy, rows in order of publication."""
    table = pa.table(
        {
            "item_id": _names("i", np.arange(catalogue.topic.size)),
            "topic": _names("topic", catalogue.topic, digits=2),
            "author": _names("a", catalogue.author, digits=5),
            "tags": _tags(catalogue, rng),
            "length_seconds": np.round(catalogue.length, 1),
            "published": catalogue.published,
        }
    )
    _write(table, folder / "items.parquet")
    np.save(folder / "content.npy", catalogue.content_IE)


class UserTable:
    """users.parquet, collected shard by shard."""

    def __init__(self) -> None:
        self._parts: list[pa.Table] = []

    def add(self, population: Population) -> None:
        """Add the users of a shard."""
        order = np.argsort(population.number)
        self._parts.append(
            pa.table(
                {
                    "user_id": _names("u", population.number[order]),
                    "age_group": _labels(AGE_GROUPS, population.age_group[order]),
                    "country": _labels(COUNTRIES, population.country[order]),
                }
            )
        )

    def write(self, folder: Path) -> None:
        """Write the users of all shards, in order of their ids."""
        _write(pa.concat_tables(self._parts).unify_dictionaries(), folder / "users.parquet")


def write_json(path: Path, values: Any) -> None:
    """Write an indented JSON document."""
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _write(table: pa.Table, path: Path) -> None:
    # Without the Arrow schema the dictionaries are read as plain strings.
    dictionary = [name for name in _DICTIONARY if name in table.column_names]
    pq.write_table(table, path, row_group_size=_ROW_GROUP, use_dictionary=dictionary, store_schema=False)


def _names(prefix: str, numbers: Array, *, digits: int = 7) -> pa.DictionaryArray:
    """Ids such as u0000123, each distinct one written out once."""
    distinct, indices = np.unique(numbers, return_inverse=True)
    names = [f"{prefix}{number:0{digits}d}" for number in distinct]
    return pa.DictionaryArray.from_arrays(pa.array(indices.astype(np.int32)), pa.array(names, pa.string()))


def _labels(labels: tuple[str, ...], indices: Array) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(indices.astype(np.int32)), pa.array(labels, pa.string()))


def _tags(catalogue: SimulatedItems, rng: np.random.Generator) -> pa.ListArray:
    """Every item has the two tags of its topic that are nearest to it, and some items a tag of _MOODS."""
    num = catalogue.topic.size
    tags_IGD = catalogue.tag_vectors_TGD[catalogue.topic]
    nearness = np.matmul(tags_IGD, catalogue.vectors_ID[:, :, None])[..., 0]
    nearest = np.argsort(-nearness, axis=1, kind="stable")[:, :2]
    own = catalogue.topic[:, None] * TAGS_PER_TOPIC + nearest
    num_own = catalogue.topic_vectors_TD.shape[0] * TAGS_PER_TOPIC
    mood = num_own + rng.integers(len(_MOODS), size=num)
    kept = np.column_stack([np.ones((num, 2), bool), rng.random(num) < _MOOD_SHARE])
    values = np.column_stack([own, mood])[kept]
    names = [f"tag{tag // TAGS_PER_TOPIC:02d}_{tag % TAGS_PER_TOPIC}" for tag in range(num_own)] + list(_MOODS)
    offsets = np.concatenate([[0], np.cumsum(kept.sum(axis=1))]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.array(names)[values].tolist(), pa.string()))
