"""Every setting trains, is judged and ranks from the command line; what the data can't serve is refused before."""

import importlib.util
import re
from pathlib import Path

import pytest

from amounts import mostly_slow
from counted_logs import counted_feed
from genrank.cli import main
from genrank.inference.gen_ranker import GenRanker
from genrank.models.ranker import build_ranker
from genrank.recipes import RECIPES, recipe
from genrank.retrieval.retriever import Retriever
from genrank.retrieval.retriever_config import RetrieverConfig
from genrank.runs.evaluate_ranking import evaluate_run
from parity import assert_ranked_as_judged
from run_files import LEARNING, first_and_last_loss
from worlds import SPEC

ROOT = Path(__file__).resolve().parents[1]
SMALL = ["threads=1", "training.epochs=1", "model.width=16", "model.num_heads=2", "evaluation.num_bootstrap=0"]


def settings() -> dict[str, tuple[str, list[str]]]:
    """The settings that benchmarks/settings.py prints a table of."""
    spec = importlib.util.spec_from_file_location("settings", ROOT / "benchmarks" / "settings.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.SETTINGS


SETTINGS = settings()
OFTEN = ("hstu + statistics", "din + statistics", "loss on history", "full history mask", "genrank + sim soft",
         "genrank + ple", "duration: wlr")  # fmt: skip
RANKERS = [name for name in RECIPES if not isinstance(recipe(name).model, RetrieverConfig)]


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny feed, prepared with window statistics."""
    return counted_feed(
        tmp_path_factory.mktemp("counted"), num_users=20, num_days=6, num_items=100, new_items_per_day=5
    )


def train(data: Path, out: Path, name: str, assignments: list[str], *others: str) -> int:
    flags = [flag for assignment in assignments for flag in ("--set", assignment)]
    return main(["train", str(data), "--recipe", name, "--out", str(out), *flags, *others])


@pytest.mark.parametrize("name", mostly_slow(SETTINGS, often=OFTEN))
def test_every_setting_learns_and_ranks_from_the_command_line(name: str, counted: Path, tmp_path: Path) -> None:
    chosen, assignments = SETTINGS[name]
    assert train(counted, tmp_path / "run", chosen, [*SMALL, *assignments], *LEARNING) == 0
    first, last = first_and_last_loss(tmp_path / "run")
    assert last < 0.9 * first
    judged = evaluate_run(tmp_path / "run", report=False).tasks
    assert set(judged) == {"click", "like", "follow", "dwell"}
    assert 0 < judged["click"]["auc"] < 1
    assert judged["dwell"]["mae"] > 0
    ranker = GenRanker.load(tmp_path / "run")
    items = [str(item) for item in ranker.items.ids[1:6].to_pylist()]
    assert len(ranker.rank(str(ranker.users.ids[1]), items).places) == 5


@pytest.mark.parametrize("name", RANKERS)
def test_every_recipe_of_a_ranker_is_a_run_that_can_be_built(name: str) -> None:
    chosen = recipe(name)
    model = build_ranker(chosen.model, SPEC, max_history=chosen.sequence.max_history)
    assert set(model.outputs.heads) == {task.name for task in SPEC.tasks}


@pytest.mark.parametrize("name", sorted(set(RECIPES) - set(RANKERS)))
def test_every_recipe_of_a_retriever_is_a_run_that_can_be_built(name: str) -> None:
    chosen = recipe(name)
    assert isinstance(chosen.model, RetrieverConfig)
    retriever = Retriever(chosen.model, SPEC, max_history=chosen.sequence.max_history)
    assert len(retriever.blocks) == (chosen.model.num_blocks if chosen.model.generator == "transformer" else 0)
    assert (retriever.auxiliary is None, retriever.ranker is None) == ("grank" not in name, "grank" not in name)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_knows_its_name_and_says_what_it_is(name: str) -> None:
    assert recipe(name).recipe == name
    assert RECIPES[name].__doc__


@pytest.mark.parametrize("name", ["din-small", "hstu-small"])
def test_ranking_offline_equals_evaluation_with_every_input(name: str, counted: Path, tmp_path: Path) -> None:
    wanted = [*SMALL, "model.statistics=on", "model.search.kind=hard", "sequence.max_history=16"]
    wanted += [f"model.{feature}_feature=true" for feature in ("position", "hour", "weekday")]
    assert train(counted, tmp_path / "run", name, wanted) == 0
    assert_ranked_as_judged(tmp_path / "run", counted)


@pytest.mark.parametrize(
    ("name", "assignment", "message"),
    [
        ("genrank-small", "model.search.kind=hard", "model.search.kind=hard needs a categorical feature of the item"),
        ("sim-small", "model.width=16", "model.search.kind=hard needs a categorical feature of the item"),
        ("genrank-small", "model.content=on", "model.content=on needs a feature of the item of kind embedding"),
        ("mlp-small", "model.statistics=on", "model.statistics=on needs window statistics.*statistics.enabled=true"),
        ("genrank-small", "model.duration_head=wlr", "model.duration_head=wlr needs a duration task"),
        ("hstu-small", "model.attention=fused", "'fused' has neither SiLU nor a learned bias"),
        ("genrank-small", "model.history_mask=full", "set sequence.grouping=request"),
        ("mlp-small", "model.position_feature=true", "model.position_feature needs the slot.*position under .columns"),
        ("mlp-small", "model.num_blocks=3", "unknown key 'num_blocks'"),
        ("genrank-small", "model.heads.kind=moe", "did you mean 'mmoe'"),
        ("genrank-small", "model.search.by=genre", "search.by names .* but search.kind is none"),
    ],
)
def test_what_the_data_lacks_or_does_not_fit_is_refused_in_one_line_before_training(
    name: str, assignment: str, message: str, bare: Path, tmp_path: Path, capsys
) -> None:
    capsys.readouterr()
    assert train(bare, tmp_path / "run", name, [assignment]) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    assert re.search(message, error)
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of ids, times and clicks, and nothing else."""
    from exposure_logs import log, prepare_log

    return prepare_log(tmp_path_factory.mktemp("bare"), log(400)).folder
