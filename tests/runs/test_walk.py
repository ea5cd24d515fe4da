"""Walking forward: what each day learns and is judged on, and that finished days stay as they are."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import genrank
from exposure_logs import SCHEMA, prepare_log
from genrank.artifacts.bundle import load_bundle
from genrank.cli import main
from genrank.data.learned_days import LearnedDays, date_of, day_begin
from genrank.evaluation.walk_report import walk_chart, walk_table
from genrank.runs.evaluate_ranking import evaluate_run
from genrank.runs.evaluate_retrieval import evaluate_retrieval
from genrank.runs.train import load_run
from genrank.runs.walk import Step, steps_of
from genrank.runs.warm_start import gentler
from genrank.schema import Split
from retrievers import SETTINGS
from run_days import DAYS, NOON, days_log

TINY = ["model.width=16", "model.num_heads=2", "threads=1", "training.epochs=2", "training.checkpoint_steps=1"]
FLAGS = ["--recipe", "genrank-small", *(flag for setting in TINY for flag in ("--set", setting))]


@pytest.fixture(scope="module")
def walked(daily: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A walk that has learned the second and the third day."""
    out = tmp_path_factory.mktemp("walk") / "walk"
    assert main(["walk", str(daily), "--out", str(out), "--first", DAYS[1], "--last", DAYS[2], *FLAGS]) == 0
    return out


def copied(walk: Path, to: Path) -> Path:
    shutil.copytree(walk, to)
    return to


def rows(walk: Path) -> list[dict]:
    found = json.loads((walk / "walk.json").read_text())["days"]
    return [{name: value for name, value in row.items() if name != "training_seconds"} for row in found]


def test_every_day_begins_from_the_one_before_and_is_judged_on_the_next(daily: Path, walked: Path) -> None:
    assert [(row["learned"], row["judged"]) for row in rows(walked)] == [(DAYS[1], DAYS[2]), (DAYS[2], DAYS[3])]
    first, second = (load_run(walked / "days" / day)[0] for day in DAYS[1:3])
    assert first.days == LearnedDays(until=DAYS[2], test=DAYS[2])
    assert second.days == LearnedDays(first=DAYS[2], until=DAYS[3], test=DAYS[3])
    assert not first.warm_start.run
    assert (first.training.epochs, second.training.epochs) == (2, 1)
    assert second.training == gentler(first.training)
    assert second.warm_start.run == str((walked / "days" / DAYS[1]).resolve())
    assert second.warm_start.version == load_bundle(walked / "days" / DAYS[1]).version
    judged = evaluate_run(walked / "days" / DAYS[2], report=False).tasks["click"]
    assert rows(walked)[1]["tasks"]["click"]["auc"] == judged["auc"]
    assert judged["num_exposures"] == 12


def test_no_day_has_learned_what_it_is_judged_on(walked: Path, tmp_path: Path) -> None:
    """Other clicks on the judged day and later change no weight of the runs before it."""
    changed = days_log()
    seen = [time < day_begin(DAYS[3], "UTC") for time in changed["time"]]
    changed["click"] = [click if old else 1 - click for click, old in zip(changed["click"], seen, strict=True)]
    split = {"valid_start": DAYS[3], "test_start": DAYS[4]}
    both = []
    for name, log in (("as-it-is", days_log()), ("changed", changed)):
        data = prepare_log(tmp_path / name, log, replace(SCHEMA, split=Split(**split))).folder
        out = tmp_path / f"walk-{name}"
        assert main(["walk", str(data), "--out", str(out), "--first", DAYS[1], "--last", DAYS[3], *FLAGS]) == 0
        both.append(
            [(next((out / "days" / day / "bundle").glob("*/model.safetensors")).read_bytes()) for day in DAYS[1:4]]
        )
    ours, theirs = both
    assert [mine == other for mine, other in zip(ours, theirs, strict=True)] == [True, True, False]


def test_it_prints_a_table_writes_a_chart_and_json_says_the_same(daily, walked, capsys, tmp_path) -> None:
    capsys.readouterr()
    arguments = ["walk", str(daily), "--out", str(walked), "--first", DAYS[1], "--last", DAYS[2], *FLAGS]
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((walked / "walk.json").read_text())
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("AUC", "GAUC", "NE", "PCOC", DAYS[2], DAYS[3], "mean of days"))
    assert (walked / "walk.svg").read_text().startswith("<svg")
    table = walk_table(rows(walked), "click")
    click = rows(walked)[0]["tasks"]["click"]
    for name, cell in zip(("auc", "gauc", "ne", "pcoc"), table.rows[0][2:], strict=True):
        low, high = click[f"{name}_ci"]
        assert low <= click[name] <= high
        assert cell == f"{click[name]:.4f} ±{(high - low) / 2:.4f}"


def test_figures_without_intervals_are_tabled_and_drawn() -> None:
    click = {"num_exposures": 3, "auc": 0.5, "gauc": None, "ne": 1.0, "pcoc": 1.1}
    days = [{"judged": day, "tasks": {"click": click}} for day in DAYS]
    assert walk_table(days, "click").rows[0][2:] == ["0.5000", "–", "1.0000", "1.1000"]
    assert walk_chart(days).startswith("<svg")


def test_the_call_in_python_gives_the_figures_and_runs_of_the_command(
    daily: Path, walked: Path, tmp_path: Path
) -> None:
    walk = genrank.walk(
        daily, out=tmp_path / "walk", recipe="genrank-small", settings=TINY, first=DAYS[1], last=DAYS[2]
    )
    without_time = [{name: value for name, value in row.items() if name != "training_seconds"} for row in walk.days]
    assert without_time == rows(walked) == rows(walk.folder)
    assert walk.run(DAYS[2]).config.days.until == DAYS[3]
    goes_on = genrank.walk(daily, out=tmp_path / "next", begin_from=walk.run(DAYS[2]), last=DAYS[3])
    assert [row["learned"] for row in goes_on.days] == [DAYS[3]]


@pytest.mark.parametrize("max_exposures", [1000, 20])
def test_a_retriever_walks_too_whether_its_log_fits_into_memory_or_not(max_exposures, daily, tmp_path, capsys) -> None:
    settings = (*SETTINGS, f"loader.max_exposures={max_exposures}", "model.exclude_seen=false")
    flags = ["--recipe", "grank-small", *(flag for setting in settings for flag in ("--set", setting))]
    out = tmp_path / "walk"
    assert main(["walk", str(daily), "--out", str(out), "--first", DAYS[1], "--last", DAYS[2], *flags]) == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("NDCG@10", "RECALL@50", "targets", DAYS[2], DAYS[3], "mean of days"))
    assert (out / "walk.svg").read_text().startswith("<svg")
    figures = [row["retrieval"] for row in rows(out)]
    assert [each["num_targets"] for each in figures] == [4, 4]
    second = out / "days" / DAYS[2]
    assert load_run(second)[0].warm_start.run == str((out / "days" / DAYS[1]).resolve())
    judged = evaluate_retrieval(second)["retrieval"]
    assert figures[1] == {name: judged[name] for name in figures[1]}
    assert {"ndcg@10", "ndcg@10_ci", "recall@500", "num_requests"} <= set(figures[1])
    assert main(["index", str(second)]) == 0


def test_finished_days_are_kept_and_a_broken_off_one_goes_on(daily, walked, tmp_path) -> None:
    arguments = ["--first", DAYS[1], *FLAGS]
    walk = copied(walked, tmp_path / "walk")
    stamp = (walk / "days" / DAYS[1] / "judged.json").stat().st_mtime_ns
    (walk / "days" / DAYS[2] / "judged.json").unlink()
    assert main(["walk", str(daily), "--out", str(walk), "--last", DAYS[3], *arguments]) == 0
    assert (walk / "days" / DAYS[1] / "judged.json").stat().st_mtime_ns == stamp
    assert rows(walk)[:2] == rows(walked)
    whole = tmp_path / "whole"
    assert main(["walk", str(daily), "--out", str(whole), "--last", DAYS[3], *arguments]) == 0
    assert rows(whole) == rows(walk)
    kept = [(whole / "days" / day / "checkpoints").exists() for day in DAYS[1:4]]
    assert kept == [False, False, True]


def test_it_begins_from_a_run_and_learns_only_the_days_since(daily, walked, tmp_path) -> None:
    begin = walked / "days" / DAYS[2]
    out = tmp_path / "walk"
    assert main(["walk", str(daily), "--out", str(out), "--from", str(begin)]) == 0
    first = load_run(out / "days" / DAYS[3])[0]
    assert first.days.first == DAYS[3]
    assert first.warm_start.run == str(begin.resolve())
    assert first.training == load_run(begin)[0].training  # that is a warm start already
    assert [row["judged"] for row in rows(out)] == DAYS[4:6]


def test_days_without_exposures_are_passed_over(tmp_path: Path) -> None:
    log = days_log()
    kept = [row for row, time in enumerate(log["time"]) if DAYS[2] != DAYS[(time - NOON - 1_600_041_600) // 86_400]]
    data = prepare_log(tmp_path, {name: [values[row] for row in kept] for name, values in log.items()}).folder
    assert steps_of(data, last=DAYS[3]) == [
        Step(since=None, learned=DAYS[0], judged=DAYS[1]),
        Step(since=DAYS[1], learned=DAYS[1], judged=DAYS[3]),
        Step(since=DAYS[3], learned=DAYS[3], judged=DAYS[4]),
    ]


def test_a_retriever_passes_over_days_without_positives(tmp_path: Path) -> None:
    log = days_log()
    log["click"] = [
        0 if date_of(time, "UTC") == DAYS[2] else click for time, click in zip(log["time"], log["click"], strict=True)
    ]
    data, out = prepare_log(tmp_path, log).folder, tmp_path / "walk"
    flags = ["--recipe", "grank-small", *(flag for setting in SETTINGS for flag in ("--set", setting))]
    assert main(["walk", str(data), "--out", str(out), "--first", DAYS[1], "--last", DAYS[2], *flags]) == 0
    assert [(row["learned"], row["judged"]) for row in rows(out)] == [(DAYS[1], DAYS[3])]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recipe", "grank-small", "--set", "model.positive=clik"], "did you mean 'click'"),
        (["--first", "2020-12-01"], "no day from 2020-12-01 to 2020-09-19 has exposures"),
        (["--first", "yesterday"], "--first: expected a date"),
    ],
)
def test_what_can_not_be_walked_is_refused_in_one_line(arguments, message, daily, tmp_path, capsys) -> None:
    capsys.readouterr()
    assert main(["walk", str(daily), "--out", str(tmp_path / "walk"), *FLAGS, *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "walk").exists()


def test_a_folder_of_another_walk_is_refused(daily, walked, capsys) -> None:
    capsys.readouterr()
    other = ["--set", "training.learning_rate=0.5"]
    assert main(["walk", str(daily), "--out", str(walked), "--first", DAYS[1], *FLAGS, *other]) == 2
    assert "with other settings; choose another" in capsys.readouterr().err
