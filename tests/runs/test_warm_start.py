"""A warm start: what is carried over, how tables grow, what is refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import genrank
from exposure_logs import SCHEMA, prepare_log
from genrank.artifacts.bundle import load_bundle
from genrank.cli import main
from genrank.cli.new_config import new_config
from genrank.data.learned_days import day_begin, vocabulary_sizes, with_sizes
from genrank.data.manifest import Manifest
from genrank.errors import BundleError, ConfigError
from genrank.preparation.extending import extend
from genrank.preparation.prepare import PrepareOptions
from genrank.preparation.sources.files import files
from genrank.recipes import recipe
from genrank.runs.evaluate_ranking import evaluate_run
from genrank.runs.train import load_run
from genrank.runs.warm_start import check_sizes, gentler, grown_state, load_grown
from genrank.schema import Split
from genrank.training.checkpoint import Checkpoints, optimizer_tensors
from genrank.training.optimizers import RowWiseAdagrad, dense_optimizer, split_parameters
from run_days import DAYS, days_log
from worlds import SPEC
from zoo import config as model_config

TINY = ["model.width=16", "model.num_heads=2", "threads=1", "training.epochs=2", "evaluation.num_bootstrap=0",
        "training.checkpoint_steps=1", "loader.batch_tokens=60"]  # fmt: skip
TABLES = ("item_id", "user_id")


@pytest.fixture(scope="module")
def first(daily: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has learned the first three days."""
    out = tmp_path_factory.mktemp("first") / "run"
    return genrank.train(daily, out=out, recipe="genrank-small", settings=TINY, until=DAYS[3]).folder


def tensors(run: Path) -> dict[str, torch.Tensor]:
    return dict(load_bundle(run).model().state_dict())


def item_table(weights: dict[str, torch.Tensor]) -> torch.Tensor:
    (name,) = [name for name in weights if name.endswith("of_item_id.weight")]
    return weights[name]


def grown_spec():
    sizes = {name: size + 3 for name, size in vocabulary_sizes(SPEC).items()}
    return with_sizes(SPEC, sizes)


def built(spec, seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    return model_config("genrank").build(spec, max_history=16)


@pytest.mark.parametrize("new_rows", ["unknown", "fresh"])
def test_a_grown_model_keeps_its_rows_and_begins_new_ones_as_asked(new_rows) -> None:
    old, new, fresh = built(SPEC, 1), built(grown_spec(), 2), built(grown_spec(), 2)
    load_grown(new, old.state_dict(), new_rows)
    before, untouched, grew = old.state_dict(), fresh.state_dict(), 0
    for name, tensor in new.state_dict().items():
        rows = len(before[name]) if tensor.dim() else None
        assert torch.equal(tensor[:rows] if rows else tensor, before[name])
        if rows and len(tensor) > rows:
            grew += 1
            beginning = before[name][:1].expand(3, -1) if new_rows == "unknown" else untouched[name][rows:]
            assert torch.equal(tensor[rows:], beginning)
    assert grew >= len(vocabulary_sizes(SPEC))


def test_optimizer_state_grows_by_zeros() -> None:
    states = []
    for spec in (SPEC, grown_spec()):
        model = built(spec, 1)
        dense, sparse = split_parameters(model)
        optimizers = dense_optimizer(dense, lr=0.1, weight_decay=0.0), RowWiseAdagrad(sparse, lr=0.1)
        if spec is SPEC:
            for weight in dense:
                weight.grad = torch.randn_like(weight)
            for weight in sparse:
                weight.grad = torch.ones_like(weight).to_sparse(1)
            for optimizer in optimizers:
                optimizer.step()
        states.append(optimizers)
    for old, new, name in zip(*states, ("dense", "sparse"), strict=True):
        found = grown_state(new, name, optimizer_tensors(old, name))
        weights = [weight for group in new.param_groups for weight in group["params"]]
        for key, value in optimizer_tensors(old, name).items():
            if value.dim():
                assert len(found[key]) == len(weights[int(key.split(".")[1])])
                assert torch.equal(found[key][: len(value)], value)
                assert not found[key][len(value) :].any()
            else:
                assert found[key] == value
        new.load_state_dict(new.state_dict())


def test_before_it_has_learned_anything_a_grown_model_scores_as_the_run_it_began_from(daily, first, tmp_path) -> None:
    still = ["training.learning_rate=1e-30", "training.sparse_learning_rate=1e-30"]
    run = genrank.train(daily, out=tmp_path / "run", begin_from=first, days=f"{DAYS[3]}..{DAYS[3]}", settings=still)
    grown, before = item_table(tensors(run.folder)), item_table(tensors(first))
    assert len(grown) == len(before) + 1  # the item that is new on that day
    torch.testing.assert_close(grown, torch.cat([before, before[:1]]))
    later = tmp_path / "later"
    shutil.copytree(first, later)
    values = json.loads((later / "config.json").read_text())
    values["days"]["test"] = DAYS[4]
    (later / "config.json").write_text(json.dumps(values))
    theirs, mine = (evaluate_run(folder, report=False).tasks["click"] for folder in (later, run.folder))
    assert mine["logloss"] == pytest.approx(theirs["logloss"], rel=1e-5)


def test_optimizer_state_goes_on_and_the_run_says_what_it_began_from(daily, first, tmp_path) -> None:
    settings = ["training.sparse_learning_rate=1e-30"]
    run = genrank.train(daily, out=tmp_path / "run", begin_from=first, days=f"{DAYS[3]}..{DAYS[3]}", settings=settings)
    before, after = (Checkpoints.load(Checkpoints(f / "checkpoints").latest())[0] for f in (first, run.folder))
    for key, state in before.items():
        if key.startswith("sparse."):
            assert (after[key][: len(state)] >= state).all()
            assert state.any()
    (steps,) = {float(value) for key, value in before.items() if key.startswith("dense.") and key.endswith(".step")}
    (more,) = {float(value) for key, value in after.items() if key.startswith("dense.") and key.endswith(".step")}
    assert more > steps > 0
    start = run.config.warm_start
    assert (start.run, start.version) == (str(first.resolve()), load_bundle(first).version)
    assert run.config.recipe == "genrank-small"
    assert run.config.model == load_run(first)[0].model


def test_learned_weights_are_trained_gently_once_and_settings_come_after(daily, first, tmp_path) -> None:
    theirs = load_run(first)[0].training
    one, other = tmp_path / "one", tmp_path / "other"
    begun = genrank.train(daily, out=one, begin_from=first, days=f"{DAYS[3]}..{DAYS[3]}").config
    assert begun.training == replace(theirs, epochs=1, learning_rate=theirs.learning_rate / 10)
    again = genrank.train(
        daily,
        out=other,
        begin_from=one,
        days=f"{DAYS[4]}..{DAYS[4]}",
        settings=["training.epochs=2", "warm_start.new_rows=fresh"],
    ).config
    assert again.training == replace(begun.training, epochs=2)
    named = new_config("genrank-small", begin=other, seed=0, settings=TINY[:2])
    assert named.training == gentler(recipe("genrank-small").training)
    assert new_config(None, begin=other, seed=0, settings=[]).warm_start.new_rows == "fresh"


def test_a_warm_start_helps_and_stopping_it_changes_nothing(daily, first, tmp_path, capsys) -> None:
    arguments = ["--from", str(first), "--days", f"{DAYS[3]}..{DAYS[4]}"]
    assert main(["train", str(daily), "--out", str(tmp_path / "whole"), *arguments]) == 0
    assert f"begun from {first.resolve()}" in "".join(capsys.readouterr().err.split("\n"))
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    shutil.copytree(whole, stopped)
    checkpoints = sorted((stopped / "checkpoints").glob("step-*"))
    assert len(checkpoints) == 2
    shutil.rmtree(checkpoints[1])
    (stopped / "checkpoints" / "latest").write_text(checkpoints[0].name)
    shutil.rmtree(stopped / "bundle")
    assert main(["train", str(daily), "--out", str(stopped), "--resume"]) == 0
    assert main(["train", str(daily), "--out", str(stopped), "--resume", *arguments]) == 2
    for name, tensor in tensors(stopped).items():
        assert torch.equal(tensor, tensors(whole)[name])


def test_a_run_whose_first_steps_were_lost_begins_again_from_the_same_run_only(daily, first, tmp_path) -> None:
    source = tmp_path / "source"
    shutil.copytree(first, source)
    run = genrank.train(daily, out=tmp_path / "run", begin_from=source, days=f"{DAYS[3]}..{DAYS[3]}").folder
    whole = tensors(run)
    shutil.rmtree(run / "checkpoints")
    shutil.rmtree(run / "bundle")
    genrank.train(daily, out=run, resume=True)
    assert all(torch.equal(tensor, whole[name]) for name, tensor in tensors(run).items())
    shutil.rmtree(run / "checkpoints")
    shutil.rmtree(source)
    genrank.train(daily, out=source, recipe="genrank-small", settings=TINY, seed=1, until=DAYS[3])
    with pytest.raises(BundleError, match=r"this run began from .*; start a new run"):
        genrank.train(daily, out=run, resume=True)


def test_data_that_has_grown_is_read_and_other_data_is_refused(daily, first, tmp_path) -> None:
    split = Manifest.load(daily).split
    parts = {"valid_start": split.valid_start, "test_start": split.test_start}
    longer = grown_log(tmp_path / "longer", parts, num_days=8)
    run = genrank.train(longer, out=tmp_path / "run", begin_from=first, days=f"{DAYS[3]}..{DAYS[5]}")
    assert len(item_table(tensors(run.folder))) > len(item_table(tensors(first)))
    assert (
        evaluate_run(first, data=longer, report=False).tasks["click"]
        == evaluate_run(first, report=False).tasks["click"]
    )
    other = days_log()
    other["item"] = [f"x{item}" for item in other["item"]]
    with pytest.raises(ConfigError, match=r"vocab/item_id.parquet is not the vocabulary .* or train without --from"):
        genrank.train(prepare_log(tmp_path / "other", other).folder, out=tmp_path / "no", begin_from=first)


def test_days_are_added_to_the_folder_and_learned_from_where_the_run_was(tmp_path) -> None:
    whole = days_log(8)
    new = [time >= day_begin(DAYS[6], "UTC") for time in whole["time"]]
    made = prepare_log(tmp_path, days_log())
    first = genrank.train(made.folder, out=tmp_path / "first", recipe="genrank-small", settings=TINY, until=DAYS[5])
    weights, judged = item_table(tensors(first.folder)), evaluate_run(first.folder, report=False)
    added = {
        name: [value for value, is_new in zip(values, new, strict=True) if is_new] for name, values in whole.items()
    }
    pq.write_table(pa.table(added), tmp_path / "more.parquet")
    options = PrepareOptions(threads=2, memory_limit="1GB", num_buckets=2)
    extend(files([tmp_path / "more.parquet"], schema=SCHEMA, folder=tmp_path), made.folder, options=options)

    assert evaluate_run(first.folder, report=False) == judged
    run = genrank.train(made.folder, out=tmp_path / "run", begin_from=first, days=f"{DAYS[5]}..{DAYS[6]}")
    assert len(item_table(tensors(run.folder))) == len(weights) + 2  # an item is new on each of the days
    assert evaluate_run(run.folder, report=False).tasks["click"]["num_exposures"] == 12
    ranker = genrank.load(run)
    items = ranker.items.ids.to_pylist()
    assert {place.item for place in ranker.rank("u1", ["new5", "new6", "new7"]).places} <= set(items)


def test_a_retriever_begins_from_a_retriever(grank: Path, data: Path, tmp_path: Path) -> None:
    test = Manifest.load(data).split.test_start
    still = ["training.learning_rate=1e-30", "training.sparse_learning_rate=1e-30", "training.epochs=1"]
    run = genrank.train(data, out=tmp_path / "run", begin_from=grank, until=test, settings=still).folder
    before, after = (dict(load_bundle(folder).retriever().state_dict()) for folder in (grank, run))
    for name, tensor in after.items():
        rows = len(before[name]) if tensor.dim() else None
        torch.testing.assert_close(tensor[:rows] if rows else tensor, before[name])
    assert sum(len(tensor) > len(before[name]) for name, tensor in after.items() if tensor.dim()) >= 1
    assert "recall" in str(genrank.evaluate(run))


def grown_log(folder: Path, parts: dict[str, int], num_days: int) -> Path:
    return prepare_log(folder, days_log(num_days), split=Split(**parts)).folder


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"recipe": "mlp-small"}, "was trained with recipe genrank-small, but this run has mlp-small"),
        ({"settings": ["model.width=32"]}, "was trained with model.width=16, but this run has 32; set it so"),
        ({"settings": ["sequence.max_history=8"]}, "sequence.max_history=.* but this run has 8"),
        ({"until": DAYS[1]}, "choose a later until"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(arguments, message: str, daily, first, tmp_path) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        genrank.train(daily, out=tmp_path / "run", begin_from=first, **arguments)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()


def test_what_is_no_finished_run_is_refused(daily, first, tmp_path) -> None:
    with pytest.raises(BundleError, match="no run here"):
        genrank.train(daily, out=tmp_path / "run", begin_from=tmp_path)
    for missing, message in (("bundle", "no model bundle here"), ("checkpoints", "has no checkpoint")):
        part = tmp_path / missing
        shutil.copytree(first, part, ignore=shutil.ignore_patterns(missing))
        with pytest.raises(BundleError, match=message):
            genrank.train(daily, out=tmp_path / "run", begin_from=part)
    assert not (tmp_path / "run").exists()


def test_combinations_of_grown_feedback_are_refused() -> None:
    config = recipe("genrank-small")
    combined = replace(config, model=replace(config.model, action_embedding="combination"))
    now, then = vocabulary_sizes(grown_spec()), vocabulary_sizes(SPEC)
    check_sizes(Path("run"), config, SPEC, before=then, now=now)
    check_sizes(Path("run"), combined, SPEC, before=then, now=now | {"rating": then["rating"]})
    with pytest.raises(ConfigError, match="numbers combinations of feedback"):
        check_sizes(Path("run"), combined, SPEC, before=then, now=now)
