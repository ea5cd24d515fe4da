"""Tiny logs of invented people in the layouts of MIND and EB-NeRD, beside the schemas of `examples/schemas`."""

import shutil
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

SCHEMAS = Path(__file__).parents[1] / "examples" / "schemas"
NOON = 1573477200  # 13:00 UTC on 2019-11-11, the first impression of U1
BEGIN = datetime(2023, 5, 18, 7, 0, 0)  # the first impression of EB-NeRD's


def write_mind(folder: Path) -> Path:
    """`behaviors.tsv` and `news.tsv` of 4 users, with the schema; the log's path."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        "2\tU1\t11/11/2019 1:30:05 PM\tN7 N8 N6 N1\tN4-0 N1-1",
        "1\tU1\t11/11/2019 1:00:00 PM\tN7 N8 N6\tN1-1 N2-0 N3-0",
        "3\tU2\t11/12/2019 12:00:00 AM\t\tN2-1 N4-0",
        *(f"{n}\tU{n % 4}\t11/13/2019 {n % 12 + 1}:00:00 AM\tN9\tN1-{n % 2} N2-{1 - n % 2}" for n in range(4, 40)),
    ]
    (folder / "behaviors.tsv").write_text("".join(line + "\n" for line in lines))
    entities = "\tabout\thttps://x\t[]\t[]\n"
    (folder / "news.tsv").write_text(f'N1\tsports\tgolf\tA "title{entities}N2\tnews\tworld\tB{entities}')
    shutil.copy(SCHEMAS / "mind.toml", folder)
    return folder / "behaviors.tsv"


def write_ebnerd(folder: Path, *, history: pa.Table | None = None) -> Path:
    """`train/behaviors.parquet`, `train/history.parquet` and `articles.parquet`, with the schema; the log's path."""
    (folder / "train").mkdir(parents=True, exist_ok=True)
    rows = range(36)
    behaviors = pa.table(
        {
            "impression_id": pa.array(range(100, 136), pa.uint32()),
            "article_id": pa.array([None] * 36, pa.int32()),
            "impression_time": pa.array([BEGIN + timedelta(hours=n // 3) for n in rows], pa.timestamp("us")),
            "device_type": pa.array([n % 3 for n in rows], pa.int8()),
            "article_ids_inview": pa.array([[11, 12, 13] if n % 2 else [14, 11] for n in rows], pa.list_(pa.int32())),
            "article_ids_clicked": pa.array([[12 if n % 2 else 14] for n in rows], pa.list_(pa.int32())),
            "user_id": pa.array([n % 3 + 1 for n in rows], pa.uint32()),
            "next_read_time": pa.array([float(n) for n in rows], pa.float32()),
            "next_scroll_percentage": pa.array([float(n * 37 % 100) for n in rows], pa.float32()),
        }
    )
    pq.write_table(behaviors, folder / "train" / "behaviors.parquet")
    pq.write_table(ebnerd_history() if history is None else history, folder / "train" / "history.parquet")
    articles = pa.table(
        {
            "article_id": pa.array(range(11, 23), pa.int32()),
            "category": pa.array([n % 3 for n in range(12)], pa.int16()),
            "topics": [["Sport", "Politik"][: 1 + n % 2] for n in range(12)],
            "premium": [n % 2 == 0 for n in range(12)],
        }
    )
    pq.write_table(articles, folder / "articles.parquet")
    shutil.copy(SCHEMAS / "ebnerd.toml", folder)
    return folder / "train" / "behaviors.parquet"


def ebnerd_history(
    users: tuple[int, ...] = (1, 2), items: list[list[int]] | None = None, hours: list[list[int]] | None = None
) -> pa.Table:
    """`history.parquet`; `hours`: before the log's first impression."""
    items = items or [[21, 22, 11], [20]]
    hours = hours or [[50, 40, 30], [1]]
    return pa.table(
        {
            "user_id": pa.array(users, pa.uint32()),
            "impression_time_fixed": pa.array(
                [[BEGIN - timedelta(hours=hour) for hour in each] for each in hours], pa.list_(pa.timestamp("us"))
            ),
            "scroll_percentage_fixed": pa.array(
                [[100.0, 10.0, None][: len(each)] for each in items], pa.list_(pa.float32())
            ),
            "article_id_fixed": pa.array(items, pa.list_(pa.int32())),
            "read_time_fixed": pa.array([[4.0, 8.0, 2.0][: len(each)] for each in items], pa.list_(pa.float32())),
        }
    )
