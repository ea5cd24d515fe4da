"""Taobao's user behaviour as published: `UserBehavior.csv`, a line per page view, favourite, cart or purchase.

Every row is an event and there are no tasks; what was done is feedback. Behaviours of one second are requests of their
own, in order of strength, so that a purchase is not taken for a repeat of its page view. Rows outside of the nine days
that the data set covers are dropped. https://tianchi.aliyun.com/dataset/649
"""

from datetime import datetime
from pathlib import Path

from genrank.errors import LogError
from genrank.preparation.engine import Engine
from genrank.preparation.logs import Relations, Source
from genrank.preparation.text_files import read_published
from genrank.schema import Columns, Feature, Feedback, LogSchema

NAME = "UserBehavior.csv"
COLUMNS = {"user": "BIGINT", "item": "BIGINT", "category": "BIGINT", "behaviour": "VARCHAR", "time": "BIGINT"}
STRENGTH = {"pv": 0, "fav": 1, "cart": 2, "buy": 3}  # ours
FIRST = int(datetime.fromisoformat("2017-11-25T00:00:00+08:00").timestamp())
END = int(datetime.fromisoformat("2017-12-04T00:00:00+08:00").timestamp())


def taobao(path: Path) -> Source:
    """The file `path`, or UserBehavior.csv in the folder `path`. Raises LogError if there is none."""
    file = path / NAME if path.is_dir() else path
    if not file.is_file():
        raise LogError(f"{path}: expected a folder with {NAME}; unpack the archive and give its folder or the file")

    def read(engine: Engine, _: LogSchema) -> Relations:
        rows = read_published(engine, [file], COLUMNS, separator=",", header=False)
        strength = rows.behaviour.cases(*STRENGTH.items())
        return Relations(exposures=rows.mutate(request=rows.time * len(STRENGTH) + strength, strength=strength))

    return Source(
        schema=LogSchema(
            name="taobao",
            columns=Columns(user="user", item="item", time="time", request="request", position="strength"),
            feedback=(Feedback(name="behaviour", column="behaviour"),),
            features=(Feature(name="category", owner="item", kind="categorical", column="category"),),
        ),
        read=read,
        folder=file.parent,
        description={"kind": "taobao", "files": [file.name]},
        period=(FIRST, END),
    )
