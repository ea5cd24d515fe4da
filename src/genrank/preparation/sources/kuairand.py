"""KuaiRand (Kuaishou) as published: Pure, 1K, 27K, and the k-core TSV of rows with a like or a hate.

The log has no request ids: a user's exposures of one second are a request; `--set requests.gap_seconds=N` joins more.
Tasks with one class only in training are left out with a warning. https://kuairand.com
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from genrank.errors import LogError
from genrank.preparation.engine import Engine, Expression
from genrank.preparation.file_kinds import beginning
from genrank.preparation.logs import Relations, Source
from genrank.preparation.text_files import read_published
from genrank.schema import Columns, Feature, LogSchema, SideTable, SideTables, Task, Time

# Task → its columns in order of preference; the k-core file has `label` (1 like, 0 hate) instead of is_like.
BINARY = {
    "click": ("is_click",),
    "long_view": ("long_view",),
    "like": ("is_like", "label"),
    "follow": ("is_follow",),
    "comment": ("is_comment",),
    "forward": ("is_forward",),
}
LONGEST_PLAY = 600.0  # seconds; videos are short, what plays longer is left running. Ours
VIDEO = ("video_type", "upload_type", "author_id", "music_id", "music_type")
USER = (
    "user_active_degree",
    "is_lowactive_period",
    "is_live_streamer",
    "is_video_author",
    "follow_user_num_range",
    "fans_user_num_range",
    "friend_user_num_range",
    "register_days_range",
    *(f"onehot_feat{number}" for number in range(18)),
)


def kuairand(folder: Path) -> Source:
    """The release in `folder` (or its folder `data`); side tables may be absent. Raises LogError without a log."""
    logs = _find(folder, "log_standard_*.csv") + _find(folder, "log_random_*.csv")
    logs = logs or [path for path in _find(folder, "*.tsv") if "time_ms" in _header(path, "\t")]
    if not logs:
        raise LogError(f"{folder}: expected KuaiRand's log_standard_*.csv or a k-core .tsv; give the unpacked folder")
    delimiter = "\t" if logs[0].suffix == ".tsv" else ","
    videos, users = _find(folder, "video_features_basic_*.csv"), _find(folder, "user_features_*.csv")
    columns = _header(logs[0], delimiter)

    def read(engine: Engine, _: LogSchema) -> Relations:
        exposures = _rows(engine, logs, delimiter, ("user_id", "video_id", "tab"))
        if "hourmin" in columns:
            exposures = exposures.mutate(hour=exposures.hourmin // 100)
        return Relations(
            exposures=exposures,
            items=_rows(engine, videos, ",", ("video_id", "tag")) if videos else None,
            users=_rows(engine, users, ",", ("user_id",)) if users else None,
        )

    schema = _schema(columns, videos, users)
    return Source(
        schema=schema,
        read=read,
        folder=folder,
        description={"kind": "kuairand", "files": [path.name for path in (*logs, *videos, *users)]},
        optional_tasks=tuple(task.name for task in schema.tasks if task.kind == "binary"),
    )


def _rows(engine: Engine, paths: Sequence[Path], delimiter: str, text: Sequence[str]) -> Expression:
    """All rows of files of equal columns: those of `text` as text, the others of the type that they look like."""
    names = _header(paths[0], delimiter)
    for path in paths[1:]:
        if _header(path, delimiter) != names:
            raise LogError(f"{path}: expected the columns of {paths[0].name}, found others; unpack the archive again")
    types = engine.looks_like(paths[0], names, separator=delimiter) | dict.fromkeys(set(text) & set(names), "VARCHAR")
    return read_published(engine, paths, types, separator=delimiter, header=True)


def _schema(columns: Sequence[str], videos: list[Path], users: list[Path]) -> LogSchema:
    tasks = [
        Task(name=name, kind="binary", column=next(column for column in choices if column in columns))
        for name, choices in BINARY.items()
        if set(choices) & set(columns)
    ]
    context = [("tab", "tab"), ("hour", "hourmin")]
    features = [
        Feature(name=name, owner="exposure", kind="categorical", column=name)
        for name, needed in context
        if needed in columns
    ]
    if videos:
        features += _video_features(_header(videos[0], ","))
    elif "duration_ms" in columns:
        features.append(Feature(name="video_duration", owner="item", kind="numeric", column="duration_ms"))
    if users:
        present = _header(users[0], ",")
        features += [
            Feature(name=name, owner="user", kind="categorical", column=name) for name in USER if name in present
        ]
    if "play_time_ms" in columns:
        length = next((feature.name for feature in features if feature.name == "video_duration"), None)
        play = Task(name="play_time", kind="duration", column="play_time_ms", unit="ms", maximum=LONGEST_PLAY)
        tasks.append(replace(play, group=length))
    return LogSchema(
        name="kuairand",
        columns=Columns(user="user_id", item="video_id", time="time_ms"),
        tasks=tuple(tasks),
        features=tuple(features),
        time=Time(unit="ms"),
        tables=SideTables(
            item=SideTable(path=videos[0].name, key="video_id") if videos else None,
            user=SideTable(path=users[0].name, key="user_id") if users else None,
        ),
    )


def _video_features(present: Sequence[str]) -> list[Feature]:
    features = [Feature(name=name, owner="item", kind="categorical", column=name) for name in VIDEO if name in present]
    if "tag" in present:
        features.append(Feature(name="tag", owner="item", kind="multi", column="tag", separator=","))
    if "video_duration" in present:
        features.append(Feature(name="video_duration", owner="item", kind="numeric", column="video_duration"))
    return features


def _find(folder: Path, pattern: str) -> list[Path]:
    return sorted([*folder.glob(pattern), *folder.glob(f"data/{pattern}")])


def _header(path: Path, delimiter: str) -> list[str]:
    _, text = beginning(path, "utf-8")
    return text.splitlines()[0].replace('"', "").split(delimiter)
