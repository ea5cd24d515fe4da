"""Every study on a tiny feed, from the command line: whole tables, pages, and what is kept."""

import csv
import json
import math
import shutil
from pathlib import Path

import pytest

from amounts import mostly_slow
from counted_logs import counted_feed
from genrank.cli import main
from genrank.data.manifest import Manifest
from genrank.studies.all_studies import STUDIES
from genrank.studies.bases import Bases
from genrank.studies.leakage import LEAKS
from genrank.studies.tokens import OFFICIAL
from miniatures import TINY, study

OFTEN = ("table1", "cold-start", "leakage", "grank")
CHEAP = ("--seeds", "2", "--grid", "none")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all studies, so that they share cells as a user's do."""
    return tmp_path_factory.mktemp("studies")


@pytest.mark.parametrize("name", mostly_slow([name for name in STUDIES if name != "a-a"], often=OFTEN))
def test_a_miniature(name: str, world: Path, out: Path) -> None:
    result = study(world, out, name, *CHEAP)
    planned = STUDIES[name](Bases(manifest=Manifest.load(world), settings=TINY))
    assert [row["variant"] for row in result["rows"]] == [variant.name for variant in planned.variants]
    for row in result["rows"]:
        assert row["errors"] == []
        whole, main = row["parts"]["all"], planned.metrics[0]
        assert set(planned.metrics) <= set(whole)
        assert 0 < whole[main]["mean"] < 1
        assert whole.get("neg_logloss", {"mean": -1})["mean"] < 0
        if planned.variant(row["variant"]).config is not None:
            assert row["seeds"] == 2
            assert row["parameters"] > 0
            assert set(row["speed"]) == set(planned.regimes)
            for measured in row["speed"].values():
                assert measured["flops_per_exposure"] > 0
                assert measured["exposures_per_second"]["value"] > 0
        if row["variant"] != result["baseline"]:
            low, high = whole[main]["difference"]["interval"]
            assert low <= whole[main]["difference"]["mean"] <= high
    assert [finding["claim"] for finding in result["findings"]] == [finding.claim for finding in planned.findings]
    for finding in result["findings"]:  # models this small may be worse than chance, which has no share
        assert finding["verdict"] != "not measured" or finding["relative"]
    assert_pages_agree(out, result)


def assert_pages_agree(out: Path, result: dict) -> None:
    """Markdown, CSV and HTML have the figures of the JSON."""
    name, row, main = result["study"], result["rows"][0], result["metrics"][0]
    figure = row["parts"]["all"][main]
    text, page = ((out / f"{name}.{suffix}").read_text(encoding="utf-8") for suffix in ("md", "html"))
    assert f"{figure['mean']:.4f}" in text
    assert f"{figure['mean']:.4f}" in page
    assert all(finding["claim"] in text for finding in result["findings"])
    assert page.count("<svg") >= 1 + any(row["speed"] for row in result["rows"])
    with (out / f"{name}.csv").open(encoding="utf-8") as file:
        values = [
            float(line["value"])
            for line in csv.DictReader(file)
            if (line["variant"], line["slice"], line["metric"]) == (row["variant"], "all", main)
        ]
    assert values == pytest.approx(figure["values"], abs=1e-6)


def test_the_cold_start_study_has_slices_by_age(world: Path, out: Path) -> None:
    result = study(world, out, "cold-start", *CHEAP)
    parts = result["rows"][0]["parts"]
    assert {"all", "first day", "older"} <= set(parts)
    assert parts["first day"]["num_exposures"] < parts["all"]["num_exposures"]
    assert "first day" in (out / "cold-start.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_scaling_study_fits_its_curves(world: Path, out: Path) -> None:
    fits = {fit["axis"]: fit for fit in study(world, out, "scaling", *CHEAP)["fits"]}
    assert set(fits) == {"parameters", "share of the users' exposures", "history window"}
    for fit in fits.values():
        assert fit["x"] == sorted(fit["x"])
        assert len(fit["logloss"]) == len(fit["x"]) >= 4
        assert fit["fit"] is None or math.isfinite(fit["fit"]["exponent"])


def test_the_leakage_study_trains_twice_and_judges_each_twice(world: Path, out: Path) -> None:
    rows = {row["variant"]: row for row in study(world, out, "leakage", *CHEAP)["rows"]}
    tests = [rows[name]["parts"]["all"]["neg_logloss"]["values"] for name in LEAKS]
    assert len({tuple(values) for values in tests}) == 4
    trained: dict[tuple[str, int], dict[str, dict]] = {}
    for path in (out / "cells").glob("genrank-small-*.json"):
        cell = json.loads(path.read_text(encoding="utf-8"))
        config, seed = cell["question"]["config"], cell["question"]["seed"]
        leak = config.pop("leak")
        trained.setdefault((json.dumps(config), seed), {})[leak] = cell["figures"]["valid"]
    pairs = [by_leak for by_leak in trained.values() if "both" in by_leak]
    assert len(pairs) == 2
    for by_leak in pairs:
        assert by_leak["none"] == by_leak["evaluation"] != by_leak["training"] == by_leak["both"]


def test_an_a_a_study_compares_a_recipe_with_itself(world: Path, out: Path) -> None:
    sanity = study(world, out, "a-a", "--seeds", "4", "--grid", "none")["sanity"]
    assert sanity["seeds_a_side"] == 2
    assert sanity["comparisons"] == 200
    assert [row["effect"] for row in sanity["rows"]] == [0.0, 0.003]


def test_committed_rules_are_applied_to_cells_again(world: Path, out: Path, tmp_path: Path) -> None:
    """`genrank results --judge` corrects what a result says against its cells, and nothing else."""
    study(world, out, "cold-start", *CHEAP)
    (tmp_path / "mine").mkdir()
    shutil.copy(out / "cold-start.json", tmp_path / "mine")
    shutil.copytree(out / "cells", tmp_path / "mine" / "cells")
    path = tmp_path / "mine" / "cold-start.json"
    sound = path.read_text(encoding="utf-8")
    assert main(["results", str(tmp_path), "--judge"]) == 0
    assert path.read_text(encoding="utf-8") == sound
    assert main(["results", str(tmp_path), "--pack"]) == 0
    assert main(["results", str(tmp_path), "--judge"]) == 0
    assert path.read_text(encoding="utf-8") == sound
    oversold = json.loads(sound)
    for finding in oversold["findings"]:
        finding["verdict"] = "confirmed"
    oversold["rows"][0]["parts"]["all"]["auc"]["mean"] = 0.99
    path.write_text(json.dumps(oversold, indent=1) + "\n", encoding="utf-8")
    assert main(["results", str(tmp_path), "--judge"]) == 0
    assert path.read_text(encoding="utf-8") == sound


def test_a_study_of_models_that_have_hardly_learnt_says_so_on_its_pages(
    world: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = study(world, out, "table1", *CHEAP)
    near = [row["variant"] for row in result["rows"] if row["not_comparable"]]
    assert near  # one step of training can't be far above counting
    assert result["counting"] is not None
    for finding in result["findings"]:
        if finding["kind"] != "faster" and set(finding["weights"]) & set(near):
            assert finding["verdict"] == "not comparable"
    shown = capsys.readouterr().out
    for text in (shown, *((out / f"table1.{suffix}").read_text(encoding="utf-8") for suffix in ("md", "html"))):
        assert "Not comparable: " in " ".join(text.split())


def test_rankers_without_window_statistics_are_not_beaten(tmp_path: Path) -> None:
    bare = counted_feed(tmp_path, statistics=False, num_users=30, num_days=4, num_items=100, new_items_per_day=20)
    planned = STUDIES["overall"](Bases(manifest=Manifest.load(bare), settings=TINY))
    weak = {variant.name for variant in planned.variants if variant.weakness}
    assert weak == {"mlp", "din", "sim", "gradient-boosted trees"}
    assert planned.notes[0].startswith("WINDOW STATISTICS ARE OFF")
    result = study(bare, tmp_path / "out", "overall", "--seeds", "2", "--grid", "none", "--only", "genrank")
    assert "WINDOW STATISTICS ARE OFF" in (tmp_path / "out" / "overall.md").read_text(encoding="utf-8")
    assert "No win over mlp is confirmed" in (tmp_path / "out" / "overall.html").read_text(encoding="utf-8")
    assert all(finding["verdict"] != "confirmed" for finding in result["findings"])


def test_studies_have_hstu_as_its_later_official_code_has_it(world: Path) -> None:
    for name in ("table1", "overall"):
        variant = STUDIES[name](Bases(manifest=Manifest.load(world), settings=TINY)).variant(OFFICIAL)
        assert variant.config is not None
        model = variant.config.model
        assert (model.organization, model.encoding, model.block) == ("action", "hstu", "hstu")
        assert dict(variant.axes) == {"model.start": ("uniform", "official"), "model.input": ("norm", "scaled")}
    fixed = Bases(manifest=Manifest.load(world), settings=(*TINY, "model.start=official"))
    assert list(STUDIES["overall"](fixed).variant("hstu").axes) == ["model.input"]


@pytest.mark.slow
def test_hstus_start_and_input_are_tuned_like_a_learning_rate(world: Path, out: Path) -> None:
    result = study(world, out, "overall", "--seeds", "1", "--trials", "5", "--only", OFFICIAL)
    trials = {choice["variant"]: [trial["settings"] for trial in choice["tried"]] for choice in result["tuning"]}
    assert len(trials["mlp"]) == len(trials[OFFICIAL]) == 5
    tried = {setting for settings in trials[OFFICIAL] for setting in settings}
    assert {"model.start=uniform", "model.start=official", "model.input=norm", "model.input=scaled"} <= tried
    assert not any(setting.startswith("model.start") for settings in trials["mlp"] for setting in settings)


def test_the_grid_and_what_won_are_written_down(world: Path, out: Path) -> None:
    """Whatever changes one thing about a ranker takes what that ranker's own tuning chose."""
    grid = ("--seeds", "1", "--trials", "3", "--grid", "training.learning_rate=1e-5,1e-2")
    result = study(world, out, "modules", *grid, "--only", "genrank + PPNet;mlp")
    assert [choice["variant"] for choice in result["tuning"]] == ["genrank", "mlp"]
    for choice in result["tuning"]:
        points = {point["settings"][0]: point["valid_auc"] for point in choice["tried"]}
        assert set(points) > {"training.learning_rate=1e-5", "training.learning_rate=1e-2"}
        assert len(points) == 3
        assert points[choice["best"][0]] == max(points.values())
    text = (out / "modules.md").read_text(encoding="utf-8")
    assert "learning_rate=1e-5" in text
    chosen = result["tuning"][0]["best"][0]
    rates = [json.loads(path.read_text())["question"] for path in (out / "cells").glob("genrank-small-0-*.json")]
    ppnet = [asked["config"] for asked in rates if asked["config"]["model"]["heads"]["ppnet"]]
    wanted = float(chosen.partition("=")[2])
    assert wanted in [config["training"]["learning_rate"] for config in ppnet]


@pytest.mark.slow
def test_the_default_grid_tunes_every_ranker_with_as_many_trials(world: Path, out: Path) -> None:
    result = study(world, out, "overall", "--seeds", "1", "--trials", "4", "--only", "genrank;din")
    assert [choice["variant"] for choice in result["tuning"]] == ["genrank", "mlp", "din"]
    for choice in result["tuning"]:
        assert len(choice["tried"]) == 4
        paths = [setting.partition("=")[0] for setting in choice["best"]]
        assert paths == ["training.learning_rate", "training.sparse_learning_rate"]  # the batch is set by --set
    page = (out / "overall.md").read_text(encoding="utf-8")
    assert "| tuned, seed 0 | trials | chosen | validation AUC | optimum |" in page


def test_one_page_of_all_studies(world: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("table1", "cold-start"):
        study(world, out, name, *CHEAP)
    (out / "notes.md").write_text("    genrank simulate\n\nMade-up data.\n", encoding="utf-8")
    capsys.readouterr()
    assert main(["results", str(out.parent)]) == 0
    page = capsys.readouterr().out
    assert "\n    genrank simulate\n\nMade-up data.\n" in page
    assert f"genrank study table1 DATA --out {out.name} --seeds 2 --grid none --set model.width=8" in page
    for name in ("table1", "cold-start"):
        result = json.loads((out / f"{name}.json").read_text(encoding="utf-8"))
        _, verdicts = page.split(f"## {name}\n\n| claim | paper | confirmed if | {out.name} |", 1)
        table, *_ = verdicts.split("\n\n", 1)
        assert all(f"| {finding['claim']} |" in table for finding in result["findings"])


def test_a_folder_without_studies_has_no_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["results", str(tmp_path)]) == 2
    assert main(["results", str(tmp_path / "nothing")]) == 2
    assert "run genrank study first" in capsys.readouterr().err


def test_a_log_without_tasks_has_the_retrieval_study_and_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log.txt"
    log.write_text("".join(f"u{u} " + " ".join(f"i{(u + n) % 9}" for n in range(7)) + "\n" for u in range(12)))
    assert main(["prepare", str(log), "--source", "sequences", "--out", str(tmp_path / "data")]) == 0
    result = study(tmp_path / "data", tmp_path / "out", "grank", *CHEAP, "--only", "GRank", "--only", "two towers")
    assert result["data"]["task"] == ""
    assert [row["seeds"] for row in result["rows"]] == [2, 2, 2]
    assert "every event" in (tmp_path / "out" / "grank.md").read_text(encoding="utf-8")
    capsys.readouterr()
    assert main(["study", "table1", str(tmp_path / "data"), "--out", str(tmp_path / "out")]) == 2
    assert "needs a binary task" in capsys.readouterr().err


def test_a_page_marks_figures_of_earlier_code(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    result = study(world, tmp_path / "mine", "table1", "--seeds", "1", "--grid", "none", "--only", "genrank")
    capsys.readouterr()
    assert main(["results", str(tmp_path)]) == 0
    page = capsys.readouterr().out
    assert "earlier code" not in page
    assert "| claim | paper | confirmed if | mine |" in page
    monkeypatch.setattr("genrank.studies.study_tables.code_digest", lambda: "0" * 16)
    assert main(["results", str(tmp_path)]) == 0
    page = capsys.readouterr().out
    assert "| claim | paper | confirmed if | mine † |" in page
    assert f"**Of earlier code: these figures were computed with code {result['made']['code']}" in page


def test_cells_keep_their_validation_curve(world: Path, out: Path) -> None:
    study(world, out, "table1", "--seeds", "1", "--grid", "none", "--only", "genrank", "--set", "training.epochs=2")
    cells = [json.loads(path.read_text(encoding="utf-8")) for path in (out / "cells").glob("genrank-small-0-*.json")]
    curves = [cell["figures"]["curve"] for cell in cells if cell["question"]["config"]["training"]["epochs"] == 2]
    assert curves
    for curve in curves:
        assert len(curve) >= 5
        seen = [point["exposures"] for point in curve]
        assert seen == sorted(seen)
        assert all(0 < point["auc"] < 1 for point in curve)
        assert sum(share > 0.75 * seen[-1] for share in seen) >= 2
