"""A file of candidates has the scores that the HTTP service answers, window statistics included."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conftest_service import Running
from genrank.cli import main
from genrank.inference.batch_scoring import ranker_of_many


def test_a_scored_file_is_what_the_service_answers(
    serve: Callable[..., Running], counted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ranker = ranker_of_many(counted)
    end = ranker.bundle.manifest.split.last_time
    users, items = [*ranker.users.ids.to_pylist()[1:6], "nobody"], [*ranker.items.ids.to_pylist()[1:9], "no-such-item"]
    rows = [
        {"user": user, "item": item, "time": end - 30_000 * number, "device": "phone" if number else None}
        for number, user in enumerate(users)
        for item in items
    ]
    source, out = tmp_path / "in.parquet", tmp_path / "out.parquet"
    pq.write_table(pa.Table.from_pylist(rows), source)
    flags = ["--out", str(out), "--value", "click=1,like=3", "--json"]
    capsys.readouterr()
    assert main(["score", str(counted), str(source), *flags]) == 0
    assert '"rows": 54' in capsys.readouterr().out
    scored = pq.read_table(out).to_pylist()
    with serve(folder=counted).client() as client:
        for number, user in enumerate(users):
            answer = client.rank(
                user,
                items,
                time=end - 30_000 * number,
                context={"device": "phone"} if number else {},
                value={"click": 1.0, "like": 3.0},
            )
            served = {place["item"]: place for place in answer["places"]}
            for row in scored[number * len(items) : (number + 1) * len(items)]:
                place = served[row["item"]]
                assert row["user"] == user
                assert row["value"] == pytest.approx(place["value"], abs=1e-5)
                assert row["score_click"] == pytest.approx(place["scores"]["click"], abs=1e-5)
