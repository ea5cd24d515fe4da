"""Window statistics against a count by hand, and between preparing and ranking."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amounts import examples
from counted_logs import LIKE, SMOOTHING, WINDOWS, random_log, schema
from exposure_logs import CLICK, SCHEMA, START, Prepared, log, prepare_log
from genrank.artifacts.bundle import write_bundle
from genrank.cli import main
from genrank.data.counted_features import counted_features
from genrank.data.learned_days import spec_until
from genrank.data.prepared import PreparedData
from genrank.data.request import load_statistics
from genrank.data.tables import FeatureTable
from genrank.inference.gen_ranker import GenRanker
from genrank.models.ranker import build_ranker
from genrank.recipes import recipe
from genrank.schema import Feature, LogSchema, Split, Statistics, Task, TaskSpec

ENTITIES = ("item", "user", "author", "tags", "user_author", "user_tags")


def loaded(prepared: Prepared) -> tuple[PreparedData, np.ndarray]:
    """The data, and every exposure's request time: that of the request's first exposure."""
    data = PreparedData.load(prepared.folder)
    t = data.timelines
    first: dict[tuple[int, int], int] = {}
    rows = list(zip(t.user_of_row().tolist(), t.request.tolist(), t.time.tolist(), strict=True))
    for user, request, time in rows:
        first[user, request] = min(time, first.get((user, request), time))
    return data, np.array([first[user, request] for user, request, _ in rows])


class ByHand:
    """The definition, event by event."""

    def __init__(self, data: PreparedData, request_time: np.ndarray):
        self.t, self.time, self.request_time = data.timelines, data.timelines.known_time, request_time
        self.items, self.rows = counted_features(data.folder, data.manifest.schema), range(data.timelines.num_exposures)
        self.user = self.t.users[self.t.user_of_row()]
        self.valid_start = data.manifest.split.valid_start
        self.rates = {task: self.base(task) for task in ("click", "like")}

    def keys(self, entity: str, row: int) -> list[Any]:
        item, user, tags = int(self.t.item[row]), int(self.user[row]), self.items["tags"]
        if entity in ("item", "user"):
            return [item if entity == "item" else user]
        values = tags.values[tags.offsets[item] : tags.offsets[item + 1]].tolist()
        values = [int(self.items["author"][item])] if entity.endswith("author") else values
        known = [value for value in values if value > 0]
        return [(user, value) for value in known] if entity.startswith("user") else known

    def counted(self, task: str) -> list[int]:
        return [row for row in self.rows if self.t.target[row] and self.t.tasks[task][row] >= 0]

    def yes(self, task: str, rows: list[int]) -> int:
        return sum(int(self.t.tasks[task][row]) for row in rows)

    def base(self, task: str) -> float:
        rows = [row for row in self.counted(task) if self.time[row] < self.valid_start]
        return min(max(self.yes(task, rows) / len(rows), 1e-4), 1 - 1e-4)

    def smooth(self, task: str, rows: list[int]) -> float:
        return (self.yes(task, rows) + SMOOTHING * self.rates[task]) / (len(rows) + SMOOTHING)

    def residual(self, task: str, row: int, owner: str) -> float:
        mine = self.keys(owner, row)
        past = [r for r in self.counted(task) if self.keys(owner, r) == mine and self.time[r] < self.request_time[row]]
        return int(self.t.tasks[task][row]) - self.smooth(task, past)

    def hits(self, task: str, entity: str, row: int, seconds: int | None) -> list[int]:
        """Events in the window, once for every value that they share with the exposure."""
        end, wanted = self.request_time[row], self.keys(entity, row)
        begin = -math.inf if seconds is None else end - seconds
        rows = [r for r in self.counted(task) if begin <= self.time[r] < end]
        return [r for r in rows for key in self.keys(entity, r) if key in wanted]

    def table(self) -> np.ndarray:
        """(N, S)."""
        return np.array([[value for entity in ENTITIES for value in self.entity(entity, row)] for row in self.rows])

    def entity(self, entity: str, row: int) -> list[float]:
        owner = "item" if entity.startswith("user") else "user"
        values: list[float] = []
        for seconds in WINDOWS.values():
            for task, rate in self.rates.items():
                hits = self.hits(task, entity, row, seconds)
                smooth = self.smooth(task, hits)
                values += [math.log1p(len(hits))] if task == "click" else []
                values.append(math.log(smooth / (1 - smooth)) - math.log(rate / (1 - rate)))
                values.append(sum(self.residual(task, r, owner) for r in hits) / (len(hits) + SMOOTHING))
        return values


@examples(30, 5)
@given(
    seed=st.integers(0, 10_000),
    request_column=st.booleans(),
    gap=st.sampled_from([0, 60]),
    late=st.booleans(),
)
def test_statistics_equal_a_count_by_hand(
    tmp_path_factory, seed: int, request_column: bool, gap: int, late: bool
) -> None:
    """late: likes have times of their own, up to 400 seconds after the exposure."""
    folder, rows, wanted = tmp_path_factory.mktemp("log"), random_log(seed), schema(request=request_column, gap=gap)
    if late:
        delay = np.random.default_rng(seed).integers(0, 17, len(rows["time"])) * 25
        liked_at = [t + int(d) if like else None for t, d, like in zip(rows["time"], delay, rows["like"], strict=True)]
        rows, like = rows | {"liked_at": liked_at}, replace(LIKE, time="liked_at")
        wanted = replace(wanted, tasks=(CLICK, like))
    data, request_time = loaded(prepare_log(folder, rows, wanted))
    assert (data.timelines.known_at is not None) == late
    expected = ByHand(data, request_time).table()
    assert data.manifest.spec.statistics == tuple(
        f"{entity}_{window}_{what}"
        for entity in ENTITIES
        for window in WINDOWS
        for what in ("count", "click_rate", "click_residual", "like_rate", "like_residual")
    )
    assert data.timelines.statistics.shape == expected.shape
    np.testing.assert_allclose(data.timelines.statistics, expected, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("gap", [0, 60])
def test_events_at_or_after_a_request_change_nothing_of_it(tmp_path: Path, gap: int) -> None:
    rows = random_log(1)
    moment = rows["time"][50]  # base rates are of the training part: what is changed lies behind it
    split = Split(valid_start=moment, test_start=rows["time"][60])
    by_time = replace(schema(request=gap == 0, gap=gap), split=split)
    data, request_time = loaded(prepare_log(tmp_path / "one", rows, by_time))
    later = np.array(rows["time"]) >= moment
    changed = dict(rows)
    for task in ("click", "like"):
        flipped = [value if value is None else 1 - value for value in rows[task]]
        changed[task] = [new if flip else old for old, new, flip in zip(rows[task], flipped, later, strict=True)]
    other, _ = loaded(prepare_log(tmp_path / "two", changed, by_time))
    unaware = request_time <= moment
    assert unaware.any()
    assert not unaware.all()
    assert gap or (request_time == moment).any()
    assert data.timelines.statistics[unaware].tobytes() == other.timelines.statistics[unaware].tobytes()
    assert data.timelines.statistics.tobytes() != other.timelines.statistics.tobytes()


@pytest.mark.parametrize("gap", [0, 60])
def test_ranking_counts_what_preparing_counted(tmp_path: Path, gap: int) -> None:
    prepared = prepare_log(tmp_path, random_log(5), schema(request=gap == 0, gap=gap))
    data, request_time = loaded(prepared)
    statistics = load_statistics(prepared.folder, data.manifest)
    t = data.timelines
    answers = statistics.answers(t.users[t.user_of_row()], t.item, request_time)
    assert answers.tobytes() == t.statistics.tobytes()


def test_a_model_that_knows_fewer_values_is_given_what_was_prepared(tmp_path: Path) -> None:
    prepared = prepare_log(tmp_path, random_log(5), schema(request=True, gap=0))
    data, request_time = loaded(prepared)
    t, manifest = data.timelines, data.manifest
    fewer = replace(manifest, spec=spec_until(manifest, prepared.folder, START + 1))
    items = FeatureTable.load(prepared.folder, "item", fewer.spec)
    assert not items.features["author"].any()
    answers = load_statistics(prepared.folder, fewer).answers(t.users[t.user_of_row()], t.item, request_time)
    assert answers.tobytes() == t.statistics.tobytes()


def test_the_ranker_sees_the_statistics_that_were_prepared(tmp_path: Path, monkeypatch) -> None:
    prepared = prepare_log(tmp_path, random_log(5, size=200), schema(request=False, gap=0))
    data, request_time = loaded(prepared)
    config = recipe("genrank-small")
    model = build_ranker(config.model, data.manifest.spec, max_history=config.sequence.max_history)
    write_bundle(tmp_path / "run", model, data=prepared.folder, sequence=config.sequence, value={"click": 1.0})
    ranker = GenRanker.load(tmp_path / "run")
    batches, score = [], ranker.engine._score
    monkeypatch.setattr(ranker.engine, "_score", lambda state, batch: (batches.append(batch), score(state, batch))[1])
    t, compared = data.timelines, 0
    user, item_ids, user_ids = t.users[t.user_of_row()], data.items.ids.to_pylist(), data.users.ids.to_pylist()
    for row in np.flatnonzero(request_time >= data.manifest.split.test_start):
        ranker.rank(user_ids[user[row]], [item_ids[t.item[row]], "no such item"], time=int(request_time[row]))
        served = batches[-1].candidates.statistics.numpy().astype(np.float16)
        assert served[0].tobytes() == t.statistics[row].tobytes()
        compared += 1
    assert compared > 10


def test_a_ranker_keeps_the_smoothing_and_base_rates_that_it_was_trained_with(tmp_path: Path) -> None:
    wanted = schema(request=True, gap=0)
    prepared = prepare_log(tmp_path / "one", random_log(5), wanted)
    again = prepare_log(
        tmp_path / "two", random_log(5), replace(wanted, statistics=replace(wanted.statistics, smoothing=50.0))
    )
    data, _ = loaded(prepared)
    config = recipe("genrank-small")
    model = build_ranker(config.model, data.manifest.spec, max_history=config.sequence.max_history)
    write_bundle(tmp_path / "run", model, data=prepared.folder, sequence=config.sequence, value={"click": 1.0})
    ranker = GenRanker.load(tmp_path / "run", data=again.folder)
    assert ranker.statistics.config.smoothing == SMOOTHING
    assert ranker.statistics.rates == data.manifest.base_rates


def test_a_features_name_changes_nothing(tmp_path: Path) -> None:
    rows = random_log(3)
    tables = []
    for name in ("maker", "user_maker", "item_maker"):
        feature = Feature(name=name, owner="item", kind="categorical", column="author")
        wanted = replace(schema(request=True, gap=0), features=(feature,))
        tables.append(loaded(prepare_log(tmp_path / name, rows, wanted))[0].timelines.statistics)
    assert tables[0].tobytes() == tables[1].tobytes() == tables[2].tobytes()


def test_a_log_of_one_user_leaves_buckets_empty(tmp_path: Path) -> None:
    rows = random_log(4) | {"user": ["u"] * 70}
    prepared = prepare_log(tmp_path, rows, schema(request=True, gap=0))
    files = sorted((prepared.folder / "statistics").rglob("*.npy"))
    assert [path.parent.name for path in files] == ["bucket=0001"]  # the user's row is 1, and there are two buckets
    assert len(loaded(prepared)[0].timelines.statistics) == len(np.load(files[0])) == 70


def test_an_unknown_item_and_user_are_as_everywhere(tmp_path: Path) -> None:
    prepared = prepare_log(tmp_path, random_log(5), schema(request=True, gap=0))
    zero = np.zeros(1, np.int64)
    answer = load_statistics(prepared.folder, prepared.manifest).answers(zero, zero, zero + START + 10**6)
    assert (answer == 0).all()


def test_statistics_are_off_unless_asked_for(tmp_path: Path) -> None:
    prepared = prepare_log(tmp_path, log())
    assert not (prepared.folder / "statistics").exists()
    assert PreparedData.load(prepared.folder).timelines.statistics.shape == (60, 0)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"tasks": ("buy",)}, r"statistics.tasks: 'buy' is no binary task; there is: click"),
        ({"by": ("city",)}, r"statistics.by: 'city' is no categorical feature of the item; there is: none"),
        ({"windows": ("1w",)}, r"'1w' is no window"),
        ({"windows": ()}, r"at least one window"),
        ({"windows": ("1d", "1d")}, r"statistics.windows must hold each of its values once"),
        ({"smoothing": 0.0}, r"above 0"),
    ],
)
def test_impossible_statistics_are_refused(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SCHEMA, statistics=Statistics(enabled=True, **setting))


def test_columns_of_one_name_are_refused() -> None:
    def named(*names: str) -> LogSchema:
        features = tuple(Feature(name=name, owner="item", kind="categorical", column="author") for name in names)
        return replace(SCHEMA, features=features, statistics=Statistics(enabled=True))

    assert named("maker", "user_kind").statistics.enabled
    with pytest.raises(ValueError, match=r"statistics.by: the columns of feature 'user_maker' .* rename it"):
        named("maker", "user_maker")
    with pytest.raises(ValueError, match=r"statistics.by: the columns of feature 'item'"):
        named("item")


def test_a_log_without_binary_tasks_has_nothing_to_count() -> None:
    dwell = Task(name="dwell", kind="duration", column="dwell")
    with pytest.raises(ValueError, match=r"statistics.enabled: there is no binary task"):
        replace(SCHEMA, tasks=(dwell,), statistics=Statistics(enabled=True))


def test_durations_are_ranked_within_the_items_group(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    item = random.integers(0, 10, 400)
    seconds = (random.gamma(2, 3, 400) * np.where(item % 2 == 0, 1, 10)).round(3)
    rows = log(
        400,
        item=[f"i{n}" for n in item],
        dwell=seconds.tolist(),
        length=["short" if n % 2 == 0 else "long" for n in item],
    )
    dwell = Task(name="dwell", kind="duration", column="dwell", group="length")
    feature = Feature(name="length", owner="item", kind="categorical", column="length")
    prepared = prepare_log(tmp_path, rows, tasks=(CLICK, dwell), features=(feature,))
    task = prepared.manifest.spec.tasks[1]
    assert isinstance(task, TaskSpec)
    assert task.group == "length"
    assert [len(row) for row in task.group_quantiles] == [33, 33, 33]
    vocabulary = {value: index for value, index, _ in prepared.vocabulary("length")}
    training = np.array(rows["time"]) < prepared.manifest.split.valid_start
    for name, parity in (("short", 0), ("long", 1)):
        mine = seconds[training & (item % 2 == parity)]
        assert task.group_quantiles[vocabulary[name]][16] == pytest.approx(np.median(mine), rel=1e-3)


def test_rare_groups_censored_and_later_durations(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    item = np.where(np.arange(400) % 40 == 0, 9, random.integers(0, 4, 400))  # item 9 is shown ten times
    seconds = random.gamma(2, 3, 400).round(3)
    cut = random.random(400) < 0.2
    rows = log(
        400,
        item=[f"i{n}" for n in item],
        dwell=np.where(cut, 1000.0, seconds).tolist(),
        cut=cut.tolist(),
        length=np.where(item == 9, 300.0, 10.0).tolist(),
    )
    dwell = Task(name="dwell", kind="duration", column="dwell", censored="cut", group="length")
    feature = Feature(name="length", owner="item", kind="numeric", column="length", boundaries=(60.0,))
    prepared = prepare_log(tmp_path / "grouped", rows, tasks=(CLICK, dwell), features=(feature,))
    quantiles = prepared.manifest.spec.tasks[1].group_quantiles
    training = ~cut & (np.array(rows["time"]) < prepared.manifest.split.valid_start)
    levels = np.arange(33) / 32
    every, short = (np.quantile(seconds[training & mask], levels) for mask in (item >= 0, item != 9))
    np.testing.assert_allclose(np.array(quantiles), [every, short, every], rtol=1e-5)

    plain = prepare_log(
        tmp_path / "plain", rows, tasks=(CLICK, replace(dwell, group=None)), features=(feature,)
    ).manifest.spec.tasks[1]
    assert plain.group == ""
    np.testing.assert_allclose(np.array(plain.group_quantiles), [every], rtol=1e-5)


def test_durations_that_are_never_seen_in_full_have_no_groups(tmp_path: Path) -> None:
    rows = log(dwell=[float(n % 7) for n in range(60)], cut=[True] * 60, length=[f"{n * 7 % 10}" for n in range(60)])
    dwell = Task(name="dwell", kind="duration", column="dwell", censored="cut", group="length")
    feature = Feature(name="length", owner="item", kind="categorical", column="length")
    task = prepare_log(tmp_path, rows, tasks=(CLICK, dwell), features=(feature,)).manifest.spec.tasks[1]
    assert (task.group, task.group_quantiles) == ("", ())


def test_a_group_that_is_no_feature_of_the_item_is_refused() -> None:
    dwell = Task(name="dwell", kind="duration", column="dwell", group="length")
    with pytest.raises(ValueError, match=r"group: 'length' is no categorical or numeric feature"):
        replace(SCHEMA, tasks=(CLICK, dwell))


def test_the_setting_reaches_a_publishers_log_from_the_command_line(tmp_path: Path) -> None:
    ratings = (f"{n % 4}\t{n * 7 % 10}\t{1 + n % 5}\t{START + n}\n" for n in range(200))
    (tmp_path / "u.data").write_text("".join(ratings))
    arguments = ["prepare", str(tmp_path), "--source", "movielens", "--out", str(tmp_path / "x")]
    assert main([*arguments, "--set", "statistics.enabled=true", "--set", "statistics.windows=['1h']"]) == 0
    columns = [f"{owner}_1h_{what}" for owner in ("item", "user") for what in ("count", "like_rate", "like_residual")]
    data = PreparedData.load(tmp_path / "x")
    assert data.manifest.spec.statistics == tuple(columns)
    assert list(data.manifest.base_rates) == ["like"]
    assert data.timelines.statistics.any(axis=0).all()


def test_the_setting_reaches_the_schema_from_the_command_line(feed: Path, tmp_path: Path, capsys) -> None:
    arguments = ["prepare", str(feed / "exposures"), "--schema", str(feed / "schema.toml")]
    arguments += ["--out", str(tmp_path / "x")]
    assert main([*arguments, "--set", "statistics.by=[nothing]"]) == 2
    assert "statistics.by" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
