"""Which days are learned and judged: the parts, what is known by then, and what is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import genrank
from exposure_logs import prepare_log
from genrank.cli import main
from genrank.data import timeline_files
from genrank.data.learned_days import (
    LearnedDays,
    date_of,
    day_after,
    day_begin,
    day_end,
    spec_until,
    with_learned_days,
    with_sizes,
)
from genrank.data.manifest import Manifest
from genrank.data.prepared import PreparedData
from genrank.data.sequence import SequenceConfig
from genrank.errors import ConfigError, InputError
from genrank.inference.gen_ranker import GenRanker
from genrank.runs.evaluate_ranking import evaluate_run
from genrank.runs.train import load_run
from genrank.schema import DataSpec, FeatureSpec, TaskSpec, Time
from run_days import DAYS, NOON, days_log

TINY = ["model.width=16", "model.num_heads=2", "threads=1", "training.epochs=1", "evaluation.num_bootstrap=0"]


def times(data: PreparedData, part: str) -> tuple[int, int]:
    builder = data.builder(SequenceConfig())
    found = data.timelines.time[data.part(builder, part).candidates]
    return int(found.min()), int(found.max())


def at(day: str, second: int = 0) -> int:
    return day_begin(day, "UTC") + NOON + second


@pytest.mark.parametrize(
    ("days", "train", "test"),
    [
        (LearnedDays(until="2020-09-17"), ("2020-09-14", "2020-09-16"), "2020-09-17"),
        (LearnedDays(test="2020-09-16"), ("2020-09-14", "2020-09-15"), "2020-09-16"),
        (LearnedDays(until="2020-09-16", test="2020-09-19"), ("2020-09-14", "2020-09-15"), "2020-09-19"),
        (LearnedDays.of(days="2020-09-15..2020-09-16"), ("2020-09-15", "2020-09-16"), "2020-09-17"),
        (LearnedDays.of(until=str(at("2020-09-16", -5))), ("2020-09-14", "2020-09-15"), "2020-09-16"),
    ],
)
def test_the_chosen_days_are_learned_and_the_chosen_day_is_judged(days, train, test, daily: Path) -> None:
    data = PreparedData.load(daily, days)
    assert times(data, "train") == (at(train[0]), at(train[1], 11))
    assert times(data, "test") == (at(test), at(test, 11))
    assert data.manifest.counts.test.exposures == 12
    assert data.manifest.counts.train.positives["click"] == int(
        data.timelines.tasks["click"][
            (data.timelines.time >= at(train[0])) & (data.timelines.time <= at(train[1], 11))
        ].sum()
    )


def test_days_between_learning_and_judging_are_validation_and_none_are_none(daily: Path) -> None:
    data = PreparedData.load(daily, LearnedDays(until="2020-09-16", test="2020-09-18"))
    assert times(data, "valid") == (at("2020-09-16"), at("2020-09-17", 11))
    assert PreparedData.load(daily, LearnedDays(until="2020-09-16")).manifest.counts.valid.exposures == 0


def test_what_is_learned_knows_the_values_of_its_days_only(daily: Path) -> None:
    whole = Manifest.load(daily)
    for number, day in enumerate(["2020-09-15", "2020-09-16", "2020-09-18"], 1):
        data = PreparedData.load(daily, LearnedDays(until=day))
        known = {f.name: f.size for f in data.manifest.spec.features}["item_id"]
        index, ids = data.items.features["item_id"], np.array(data.items.ids.to_pylist())
        seen = {f"new{n}" for n in range((at(day) - at("2020-09-14")) // 86_400)}
        assert set(ids[(index > 0) & np.char.startswith(ids, "new")]) == seen
        assert known == index.max() + 1
        assert spec_until(whole, daily, day_begin(day, "UTC")) == data.manifest.spec
        assert data.items.train_count[list(ids).index("new0")] == 3
        assert data.users.train_count.sum() == 12 * len(seen), number


def test_a_first_day_alone_leaves_the_other_parts_as_prepared(daily: Path) -> None:
    whole, later = (PreparedData.load(daily, days) for days in (None, LearnedDays(first="2020-09-16")))
    assert times(later, "train")[0] == at("2020-09-16")
    assert times(later, "test") == times(whole, "test")
    counts, before = later.manifest.counts, whole.manifest.counts
    assert (counts.valid, counts.test) == (before.valid, before.test)
    assert counts.train.exposures == before.train.exposures - 2 * 12


def test_new_groups_of_durations_have_the_quantiles_of_the_unknown_one() -> None:
    unknown, short = (0.0, 5.0), (0.0, 1.0)
    dwell = TaskSpec(name="dwell", kind="duration", group="length", group_quantiles=(unknown, short))
    plain = replace(dwell, name="watch", group="", group_quantiles=(unknown,))
    length = FeatureSpec(name="length", owner="item", kind="categorical", size=2)
    spec = DataSpec(features=(length,), tasks=(dwell, plain))
    grown = with_sizes(spec, {"length": 4})
    assert grown.features[0].size == 4
    assert grown.tasks[0].group_quantiles == (unknown, short, unknown, unknown)
    assert grown.tasks[1] == plain
    assert with_sizes(grown, {"length": 2}) == spec
    assert with_sizes(spec, {"item_id": 9}) == spec


def test_parts_of_a_folder_are_counted_once(daily: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    days = LearnedDays(until=DAYS[2], test=DAYS[4])
    manifest = Manifest.open(daily)
    first = with_learned_days(manifest, daily, days)
    monkeypatch.setattr(timeline_files, "load_buckets", lambda *arguments: pytest.fail("counted again"))
    assert with_learned_days(manifest, daily, days) == first
    changed = replace(manifest, files=manifest.files | {"manifest": "of another content"})
    with pytest.raises(pytest.fail.Exception, match="counted again"):
        with_learned_days(changed, daily, days)


def test_history_before_the_learned_days_stays_visible(daily: Path) -> None:
    data = PreparedData.load(daily, LearnedDays.of(days="2020-09-17..2020-09-17"))
    samples = data.part(data.builder(SequenceConfig()), "train")
    assert len(samples.candidates) == 12
    assert samples.num_history.min() >= 9  # three of each user on each of three days before


def test_a_day_is_that_of_the_schemas_zone(tmp_path: Path) -> None:
    made = prepare_log(tmp_path, days_log(), time=Time(zone="Pacific/Auckland"))  # noon UTC is midnight there, about
    data = PreparedData.load(made.folder, LearnedDays(until="2020-09-16"))
    assert data.manifest.split.valid_start == day_begin("2020-09-16", "UTC") - 12 * 3600
    assert times(data, "test") == (at("2020-09-15"), at("2020-09-15", 11))


def test_a_day_of_a_clock_change_has_its_hours() -> None:
    assert day_end("2024-03-31", "Europe/Berlin") - day_begin("2024-03-31", "Europe/Berlin") == 23 * 3600
    assert (day_after("2024-02-28"), day_after(86_400)) == ("2024-02-29", 172_800)


@pytest.mark.parametrize(
    ("days", "message"),
    [
        (
            {"until": "2020-10-01"},
            "until: 2020-10-01 lies outside the log, 2020-09-14 to 2020-09-19; choose a day of it",
        ),
        ({"test": "2020-09-25"}, "test: 2020-09-25 lies outside"),
        ({"until": "2020-09-14"}, "no exposure of the log, .* is before 2020-09-14"),
        ({"until": "2020-09-18", "test": "2020-09-16"}, "until: 2020-09-18 is after test, 2020-09-16"),
        ({"days": "2020-09-18..2020-09-16"}, "first: 2020-09-18 is not before the end of training, 2020-09-17"),
        ({"days": "2020-09-01..2020-09-16"}, "first: 2020-09-01 lies outside"),
        ({"days": "2020-09-16"}, "days: expected A..B"),
        ({"days": "2020-09-15..2020-09-16", "until": "2020-09-17"}, "both set the end of training"),
        (
            {"until": "tomorrow"},
            "until: expected a date such as 2024-05-01, or seconds since the epoch, found 'tomorrow'",
        ),
        ({"until": 10**15}, "until: expected a date"),
        ({"until": "9999-12-31"}, "until: expected a date"),
        ({"until": "0001-01-01"}, "until: expected a date"),
        ({"test": "-4000000000"}, "test: expected a date"),
        ({"until": at("2020-09-17", -5), "test": at("2020-09-17", 30)}, "there are no exposures to judge on"),
    ],
)
def test_days_that_can_not_be_are_refused_in_one_line(days, message: str, daily: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        genrank.train(daily, out=tmp_path / "run", recipe="mlp-small", settings=TINY, **days)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()


def test_the_last_day_can_be_learned_with_nothing_left_to_judge_on(daily: Path) -> None:
    data = PreparedData.load(daily, LearnedDays.of(days="2020-09-19..2020-09-19"))
    assert data.manifest.counts.train.exposures == 12
    with pytest.raises(InputError, match="'test' holds no exposures"):
        data.part(data.builder(SequenceConfig()), "test")


def test_a_run_keeps_its_days_in_config_evaluation_bundle_and_resume(data: Path, tmp_path: Path) -> None:
    split = Manifest.load(data).split
    day = day_after(_date(split.first_time))
    until = day_after(day_after(day))
    out = tmp_path / "run"
    flags = [flag for setting in TINY for flag in ("--set", setting)]
    assert main(["train", str(data), "--out", str(out), "--recipe", "genrank-small", "--until", until, *flags]) == 0
    assert load_run(out)[0].days == LearnedDays(until=until)
    judged = evaluate_run(out, report=False)
    expected = PreparedData.load(data, LearnedDays(until=until))
    assert judged.tasks["click"]["num_exposures"] == expected.manifest.counts.test.exposures
    assert 0 < expected.manifest.counts.train.exposures < Manifest.load(data).counts.train.exposures
    ranker = GenRanker.load(out)
    assert ranker.spec == expected.manifest.spec != Manifest.load(data).spec
    items, user = ranker.items.ids.to_pylist()[1:4], ranker.users.ids.to_pylist()[1]
    assert len(ranker.rank(user, items).places) == 3
    assert main(["train", str(data), "--out", str(out), "--resume", "--until", day]) == 2
    assert main(["train", str(data), "--out", str(out), "--resume"]) == 0


def test_a_choice_by_validation_needs_days_to_validate_on(daily: Path, tmp_path: Path) -> None:
    settings = [*TINY, "training.select=click.auc"]
    with pytest.raises(ConfigError, match="the chosen days leave no validation part"):
        genrank.train(daily, out=tmp_path / "run", recipe="mlp-small", settings=settings, until="2020-09-17")


def test_as_prepared_is_no_choice(daily: Path) -> None:
    manifest = Manifest.load(daily)
    assert with_learned_days(manifest, daily, LearnedDays()) is manifest
    assert replace(LearnedDays(), test=None).split(manifest.split, "UTC") == manifest.split


def _date(time: int) -> str:
    return date_of(time, "UTC")
