"""Logs whose rows aren't exposures: lists of what was shown, and actions as rows of their own; side tables."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from case_logs import SCHEMA, Case, of_kind, rows, written
from genrank.data.prepared import PreparedData

LISTS = """
name = "case"
[columns]
user = "user"
item = "shown"
time = "at"
[[tasks]]
name = "click"
kind = "binary"
column = "clicked"
[[tasks]]
name = "read"
kind = "duration"
column = "seconds"
[[features]]
name = "device"
owner = "exposure"
kind = "categorical"
column = "device"
[lists]
acted = ["clicked"]
follows = { seconds = "clicked" }
"""
Requests = list[dict[str, Any]]


def requests(num: int = 300) -> Requests:
    rng = np.random.default_rng(1)
    made = []
    for number in range(num):
        shown = [int(item) for item in rng.choice(50, int(rng.integers(1, 9)), replace=False)]
        clicked = [item for item in rng.permutation(shown).tolist() if rng.random() < 0.3]
        made.append(
            {
                "user": int(rng.integers(20)),
                "at": 1_700_000_000 + 600 * number,
                "device": int(rng.integers(3)),
                "shown": shown,
                "clicked": clicked,
                "seconds": [float(item) + 0.5 for item in clicked],
            }
        )
    return made


def expected(made: Requests) -> set[tuple[Any, ...]]:
    return {
        (
            str(r["user"]),
            r["at"],
            slot,
            str(item),
            int(item in r["clicked"]),
            item + 0.5 if item in r["clicked"] else -1,
        )
        for r in made
        for slot, item in enumerate(r["shown"])
    }


def exposures(case: Case, log: Path, schema: str = LISTS) -> set[tuple[Any, ...]]:
    made = case.read(log, schema)
    return {
        (r["user"], r["time"], r["position"], r["item"], r["task_click"], float(np.nan_to_num(r["task_read"], nan=-1)))
        for r in made.rows()
    }


def stored(case: Case, made: Requests) -> Path:
    pq.write_table(pa.Table.from_pylist(made), case.folder / "log.parquet")
    return case.folder / "log.parquet"


def test_every_item_of_a_list_is_an_exposure(case: Case) -> None:
    made = requests()
    assert exposures(case, stored(case, made)) == expected(made)
    data = PreparedData.load(case.out)
    assert data.manifest.counts.requests == 300
    assert data.manifest.schema.columns.position is not None


@pytest.mark.parametrize("separator", [" ", ",", "|"])
def test_lists_may_be_text(case: Case, separator: str) -> None:
    made = requests()
    text = [r | {k: separator.join(str(v) for v in r[k]) for k in ("shown", "clicked", "seconds")} for r in made]
    log = written(case.folder / "log.csv", text, delimiter=";")
    assert "lists.separator" in case.refusal(log, LISTS)
    assert exposures(case, log, LISTS + f'separator = "{separator}"\n') == expected(made)


def test_lists_may_be_written_as_python_does(case: Case) -> None:
    made = requests()
    text = [
        r
        | {"shown": str([str(item) for item in r["shown"]]), "clicked": str(r["clicked"]), "seconds": str(r["seconds"])}
        for r in made
    ]
    log = written(case.folder / "log.csv", text)
    assert exposures(case, log, LISTS + 'separator = ","\n') == expected(made)


def test_labels_may_be_lists_beside_the_items(case: Case) -> None:
    made = requests()
    log = stored(
        case,
        [
            r
            | {
                "clicked": [int(i in r["clicked"]) for i in r["shown"]],
                "seconds": [i + 0.5 if i in r["clicked"] else None for i in r["shown"]],
            }
            for r in made
        ],
    )
    assert exposures(case, log, LISTS.partition("[lists]")[0]) == expected(made)


def test_one_duration_belongs_to_the_only_item_acted_on(case: Case) -> None:
    made = requests()
    log = stored(case, [r | {"seconds": 7.5} for r in made])
    several = sum(len(r["clicked"]) > 1 for r in made)
    found = exposures(case, log)
    only = {(str(r["user"]), r["at"], str(r["clicked"][0])) for r in made if len(r["clicked"]) == 1}
    assert {(user, at, item) for user, at, _, item, _, read in found if read == 7.5} == only
    assert all(read == -1 for *_, click, read in found if not click)
    (message,) = of_kind(PreparedData.load(case.out).manifest, "values")
    assert f"{several} rows have one value in 'seconds' for several items" in message


def test_lists_of_other_lengths_are_refused(case: Case) -> None:
    made = requests()
    made[0]["seconds"] = [*made[0]["seconds"], 1.0]
    line = case.refusal(stored(case, made), LISTS)
    assert "1 rows have lists of unequal length in 'seconds' and 'clicked'" in line
    assert "lists.acted" in case.refusal(stored(case, requests()), LISTS.partition("[lists]")[0])


def test_items_acted_on_that_were_not_shown_are_counted(case: Case) -> None:
    made = requests()
    log = stored(case, [r | {"clicked": [*r["clicked"], 99], "seconds": [*r["seconds"], 1.0]} for r in made])
    assert exposures(case, log) == expected(made)
    (message,) = of_kind(PreparedData.load(case.out).manifest, "values")
    assert "300 items in 'clicked' are not among those shown" in message


def test_a_list_that_is_missing_is_one_of_nothing(case: Case) -> None:
    made = requests()
    made[5] |= {"clicked": [], "seconds": []}
    log = stored(case, [r | {"clicked": r["clicked"] or None, "seconds": r["seconds"] or None} for r in made])
    assert exposures(case, log) == expected(made)


# Rows of actions -----------------------------------------------------------------------------------------------------


def halves(*, share: float = 1.0) -> list[dict[str, Any]]:
    """A row without a click for every exposure, and, for `share` of the clicked, a row with it 8 seconds later."""
    rng = np.random.default_rng(2)
    made = []
    for row in rows():
        apart = row["clk"] and rng.random() < share
        made.append(row | {"clk": 0 if apart else row["clk"]})
        if apart:
            made.append(row | {"ts": row["ts"] + 8})
    return made


def labels(case: Case) -> list[tuple[Any, ...]]:
    made = PreparedData.load(case.out)
    items, t = made.items.ids.to_pylist(), made.timelines
    return sorted(
        (int(time), items[item], int(click)) for time, item, click in zip(t.time, t.item, t.tasks["click"], strict=True)
    )


def plain_labels() -> list[tuple[Any, ...]]:
    return sorted((row["ts"], row["iid"], row["clk"]) for row in rows())


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_actions_as_rows_are_found_and_joined(case: Case, share: float) -> None:
    log = written(case.folder / "log.csv", halves(share=share))
    (message,) = of_kind(case.read(log).manifest, "leakage")
    assert "positives" in message
    assert "[join] within" in message
    case.out.rename(case.folder / "unjoined")
    made = case.read(log, SCHEMA + '[join]\nwithin = "10m"\n')
    assert of_kind(made.manifest, "leakage") == []
    assert labels(case) == plain_labels()


@pytest.mark.parametrize("unit", ["auto", "ms", "text"])
def test_the_actions_own_time_is_when_it_is_known(case: Case, unit: str) -> None:
    write = {"auto": int, "ms": lambda time: 1000 * time, "text": lambda time: datetime.fromtimestamp(time, UTC)}[unit]
    log = written(case.folder / "log.csv", [row | {"ts": write(row["ts"])} for row in halves()])
    flags = ["--set", "time.unit=ms"] if unit == "ms" else []
    case.read(log, SCHEMA + '[join]\nwithin = "10m"\n', *flags)
    assert labels(case) == plain_labels()
    t = PreparedData.load(case.out).timelines
    clicked = t.tasks["click"] == 1
    assert np.array_equal(t.known_at - t.time, np.where(clicked, 8, 0))


def test_events_by_name_are_joined(case: Case) -> None:
    made = []
    for row in rows():
        made.append({"who": row["uid"], "what": row["iid"], "at": row["ts"], "event": "view"})
        made += [made[-1] | {"at": row["ts"] + 5, "event": "scroll"}]
        made += [made[-2] | {"at": row["ts"] + 9, "event": "click"}] * row["clk"]
    made.append({"who": "u0", "what": "i00", "at": 1_700_000_000 - 10**6, "event": "click"})
    schema = SCHEMA.replace("uid", "who").replace("iid", "what").replace('"ts"', '"at"').replace("clk", "click")
    log = written(case.folder / "log.csv", made[::-1])
    join = '[join]\nwithin = "1m"\nevent = "event"\nexposure = "view"\n'
    found = case.read(log, schema + join)
    assert labels(case) == plain_labels()
    (message,) = of_kind(found.manifest, "values")
    assert "1 actions have no exposure" in message
    case.out.rename(case.folder / "first")
    assert "expected rows with 'shown'" in case.refusal(log, schema + join.replace("view", "shown"))


def test_the_order_of_a_joined_log_is_its_own(case: Case) -> None:
    lines = halves()
    case.read(written(case.folder / "log.csv", lines), SCHEMA + '[join]\nwithin = "10m"\n')
    data = PreparedData.load(case.out)
    items = data.items.ids.to_pylist()
    time, item = data.timelines.time, data.timelines.item
    order = [(row["ts"], row["iid"]) for row in rows()]
    of_user = {pair: place for place, pair in enumerate(order)}
    unclicked = np.flatnonzero(data.timelines.tasks["click"] == 0)
    places = [of_user[int(time[n]), items[item[n]]] for n in unclicked]
    same = [
        a < b for a, b, m, n in zip(places, places[1:], unclicked, unclicked[1:], strict=False) if time[m] == time[n]
    ]
    assert len(same) > 100
    assert all(same)


def test_items_that_are_shown_again_are_no_halves(case: Case) -> None:
    rng = np.random.default_rng(3)
    again = [row | {"ts": row["ts"] + 60, "clk": int(rng.random() < 0.3)} for row in rows()]
    assert of_kind(case.read(written(case.folder / "log.csv", [*rows(), *again])).manifest, "leakage") == []


# Side tables ---------------------------------------------------------------------------------------------------------

SIDE = """
[tables.item]
path = "items.csv"
key = "id"
[[features]]
name = "author"
owner = "item"
kind = "categorical"
column = "author"
"""


def test_a_side_table_of_other_keys_is_refused_with_an_example_of_each_side(case: Case) -> None:
    written(case.folder / "items.csv", [{"id": n, "author": n % 5} for n in range(40)])
    line = case.refusal(written(case.folder / "log.csv", rows()), SCHEMA + SIDE)
    assert "tables.item: items.csv knows 0 of the log's 40 items by 'id'" in line
    assert "only in the log, for instance: 'i00', only in the table: '0'" in line


@pytest.mark.parametrize(("known", "warned"), [(40, False), (37, False), (20, True), (1, True)])
def test_a_side_table_that_knows_few_items_is_warned_of(case: Case, known: int, warned: bool) -> None:
    written(
        case.folder / "items.csv",
        [{"id": f"i{n:02d}", "author": n % 5} for n in range(known)] + [{"id": "new", "author": 1}],
    )
    made = case.read(written(case.folder / "log.csv", rows()), SCHEMA + SIDE)
    found = of_kind(made.manifest, "keys")
    assert bool(found) == warned
    if warned:
        assert f"knows {known} of the log's 40 items" in found[0]
        assert f"'i{known:02d}', only in the table: 'new'" in found[0]


def test_a_side_table_may_have_a_dialect_of_its_own(case: Case) -> None:
    text = "id^author\n" + "".join(f"i{n:02d}^é{n % 5}\n" for n in range(40))
    (case.folder / "items.csv").write_bytes(text.encode("latin-1"))
    log = written(case.folder / "log.csv", rows(), delimiter=";")
    own = SIDE.replace('key = "id"', 'key = "id"\ncsv = { separator = "^", encoding = "latin-1" }')
    made = case.read(log, SCHEMA + own)
    assert {value for value, *_ in made.vocabulary("author")} == {f"é{n}" for n in range(5)}
