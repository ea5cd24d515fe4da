"""The command line as users meet it: what it prints, what it refuses, and how."""

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from forked_commands import ForkedCommand
from genrank.cli import main
from genrank.cli.demo import draws_pages
from parity import assert_ranked_as_judged

SETTINGS = ["--recipe", "genrank-small", "--set", "model.width=16", "--set", "model.num_heads=2", "--set", "threads=1"]


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line that a command prints when it refuses its input."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = [line for line in captured.err.splitlines() if line.strip()]
    assert len(lines) == 1, captured.err
    assert "Traceback" not in captured.err
    return lines[0]


def test_evaluate_prints_the_contracts_json_and_nothing_else(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["evaluate", str(run), "--json"]) == 0
    judged = json.loads(capsys.readouterr().out)
    click = judged["tasks"]["click"]
    assert {"auc", "gauc", "gauc_coverage", "logloss", "ne", "pcoc", "ece", "num_exposures", "auc_ci"} <= set(click)
    assert click["auc_ci"][0] < click["auc"] < click["auc_ci"][1]
    assert set(judged["baselines"]["click"]) == {"base_rate", "item_rate", "item_user_rate", "oracle"}
    assert judged["baselines"]["click"]["oracle"]["auc"] > click["auc"]
    assert {"mae", "xauc"} <= set(judged["tasks"]["dwell"])
    assert judged["slices"]["item"]["first day"]["click"]["num_exposures"] > 0
    page = (run / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg") >= 8
    assert f"{click['auc']:.4f}" in page
    assert "http://" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )


def test_rank_orders_by_the_value_formula(run: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    items = pq.read_table(data / "items.parquet").column("id").to_pylist()[1:6]
    user = pq.read_table(data / "users.parquet").column("id").to_pylist()[1]
    capsys.readouterr()
    arguments = ["rank", str(run), "--user", user, "--candidates", ",".join(items), "--json"]
    assert main([*arguments, "--value", "click=1,like=10"]) == 0
    ranking = json.loads(capsys.readouterr().out)
    assert ranking["user_known"]
    values = [place["value"] for place in ranking["places"]]
    assert values == sorted(values, reverse=True)
    for place in ranking["places"]:
        assert place["value"] == pytest.approx(place["scores"]["click"] + 10 * place["scores"]["like"])
        assert place["known"]


def test_unknown_users_and_items_are_ranked_and_marked(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["rank", str(run), "--user", "nobody", "--candidates", "no-such-item", "--json"]) == 0
    ranking = json.loads(capsys.readouterr().out)
    assert not ranking["user_known"]
    assert ranking["num_history"] == 0
    assert not ranking["places"][0]["known"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--user", "u", "--candidates", " "], "no candidates"),
        (["--user", "u", "--candidates", "a,,b"], "empty"),
        (["--user", "u", "--candidates", "a,b,a"], "twice"),
        (["--user", "u", "--candidates", "a", "--value", "clik=1"], "did you mean 'click'?"),
        (["--user", "u", "--candidates", "a", "--value", "click=much"], "must be a number"),
        (["--user", "u", "--candidates", "a", "--context", "devise=phone"], "did you mean 'device'?"),
    ],
)
def test_ranking_requests_that_make_no_sense_are_refused(run, capsys, arguments, said) -> None:
    assert said in refused(capsys, "rank", run, *arguments)


@pytest.mark.parametrize(
    "command",
    [
        ["rank", "--user", "u", "--candidates", "a"],
        ["score", "candidates.csv", "--out", "scores.csv"],
        ["evaluate"],
        ["serve"],
    ],
    ids=lambda command: command[0],
)
def test_a_device_that_is_not_there_is_refused(command: list[str], run: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    name, *rest = command
    said = refused(capsys, name, run, *rest, "--device", "cuda:1")
    assert "device=cuda:1: PyTorch finds no CUDA device here; set device=cpu" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "model.widht=8"], "did you mean 'width'?"),
        (["--set", "modle.width=8"], "did you mean 'model'?"),
        (["--set", "model.width=wide"], "expected int"),
        (["--set", "model.width"], "expected path=value"),
        (["--set", "model=3"], "group of settings"),
        (["--set", "model.alibi=sometimes"], "not a choice"),
        (["--set", "model.width=30"], "multiple"),
        (["--set", "model.history_mask=full"], "sequence.grouping=request"),
        (["--set", "training.task_weights.clik=2"], "no such task"),
        (["--recipe", "genrnk"], "did you mean 'genrank'?"),
    ],
)
def test_settings_and_recipes_that_do_not_exist_are_refused_before_training(data, tmp_path, capsys, arguments, said):
    assert said in refused(capsys, "train", data, "--out", tmp_path / "run", *arguments)
    assert not (tmp_path / "run").exists()


def test_an_occupied_output_folder_is_refused_and_left_alone(data, tmp_path, capsys) -> None:
    (tmp_path / "mine").write_text("precious")
    assert "not empty" in refused(capsys, "train", data, "--out", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_missing_data_and_runs_are_named(tmp_path, capsys) -> None:
    assert "no prepared data here" in refused(capsys, "train", tmp_path / "nothing", "--out", tmp_path / "run")
    assert "no run here" in refused(capsys, "evaluate", tmp_path)
    assert "no model bundle here" in refused(capsys, "rank", tmp_path, "--user", "u", "--candidates", "a")


@pytest.mark.parametrize("victim", ["model.safetensors", "items.parquet", "bundle.json"])
def test_a_damaged_bundle_is_refused_by_name(run, tmp_path, capsys, victim) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    path = next((copy / "bundle").glob(f"*/{victim}"))
    path.write_bytes(path.read_bytes()[:-20])
    assert victim in refused(capsys, "evaluate", copy)
    path.unlink()
    assert victim in refused(capsys, "evaluate", copy) or victim == "bundle.json"


def test_data_of_another_schema_is_refused(run, feed, tmp_path, capsys) -> None:
    other = tmp_path / "other"
    arguments = ["--schema", str(feed / "schema.toml"), "--set", "item_min_count=5", "--out", str(other)]
    assert main(["prepare", str(feed / "exposures"), *arguments]) == 0
    assert "not the vocabulary" in refused(capsys, "evaluate", run, "--data", other)


def test_a_log_without_tasks_can_be_prepared_but_not_ranked_by(tmp_path, capsys) -> None:
    lines = "".join(f"u{n % 3},i{n % 5},{1_600_000_000 + n}\n" for n in range(60))
    (tmp_path / "bought.csv").write_text("user,item,time\n" + lines)
    (tmp_path / "schema.toml").write_text('name = "bought"\n[columns]\nuser = "user"\nitem = "item"\ntime = "time"\n')
    data = tmp_path / "data"
    arguments = ["--schema", str(tmp_path / "schema.toml"), "--out", str(data)]
    assert main(["prepare", str(tmp_path / "bought.csv"), *arguments]) == 0
    said = refused(capsys, "train", data, "--recipe", "genrank-small", "--out", tmp_path / "run")
    assert f"{data}: has no tasks" in said
    assert "--recipe grank" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("setting", "said"),
    [("statistics.enabled=true", "the window statistics differ"), ("statistics.smoothing=9", "smoothed or measured")],
)
def test_data_with_other_window_statistics_is_refused(run, feed, tmp_path, capsys, setting, said) -> None:
    log, schema, out = str(feed / "exposures"), str(feed / "schema.toml"), str(tmp_path / "data")
    assert main(["prepare", log, "--schema", schema, "--out", out, "--set", setting]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(run), "--data", out]) == 2
    assert said in capsys.readouterr().err


def test_damaged_timelines_are_refused(data, run, tmp_path, capsys) -> None:
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    path = next((copy / "timelines").rglob("*.parquet"))
    path.write_bytes(path.read_bytes()[:-50])
    assert "damaged" in refused(capsys, "evaluate", run, "--data", copy)


def weights(run: Path) -> bytes:
    return next((run / "bundle").glob("*/model.safetensors")).read_bytes()


def test_killed_at_any_step_and_resumed_equals_the_run_that_was_not(data: Path, tmp_path: Path) -> None:
    train = [*SETTINGS, "--set", "training.epochs=4", "--set", "training.checkpoint_steps=3"]
    train += ["--set", "loader.batch_tokens=512", "--set", "training.log_steps=2"]
    train += ["--set", "training.select=click.auc", "--set", "training.validate_every=0.5"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main(["train", str(data), "--out", str(whole), *train]) == 0
    process = ForkedCommand(["train", str(data), "--out", str(killed), *train], tmp_path / "log")
    deadline = time.monotonic() + 120
    while not (killed / "checkpoints" / "latest").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(0.05 + 0.3 * (os.getpid() % 7) / 7)  # somewhere between two checkpoints
    process.kill()
    assert process.wait() == -signal.SIGKILL, "the run ended before it was killed"
    assert not (killed / "bundle").exists()
    assert main(["train", str(data), "--out", str(killed), "--resume"]) == 0
    assert weights(killed) == weights(whole)
    assert (killed / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


def test_ctrl_c_leaves_a_checkpoint_and_says_how_to_go_on(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = [*SETTINGS, "--set", "training.epochs=30", "--set", "training.checkpoint_steps=2"]
    process = ForkedCommand(["train", str(data), "--out", str(out), *arguments], tmp_path / "log")
    deadline = time.monotonic() + 120
    while not (out / "checkpoints" / "latest").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    said = (tmp_path / "log").read_text()
    assert "--resume" in said
    assert "Traceback" not in said


def test_the_same_seed_gives_the_same_run_and_another_does_not(data: Path, tmp_path: Path) -> None:
    found = {}
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        out = tmp_path / name
        assert main(["train", str(data), "--out", str(out), "--seed", str(seed), *SETTINGS]) == 0
        found[name] = weights(out)
    assert found["one"] == found["again"] != found["other"]


def test_ranking_offline_equals_the_evaluated_score(run: Path, data: Path) -> None:
    assert_ranked_as_judged(run, data)


def test_the_demo_knows_that_it_cannot_draw_its_report(monkeypatch: pytest.MonkeyPatch) -> None:
    assert draws_pages()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert not draws_pages()
