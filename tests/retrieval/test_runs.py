"""From a prepared log to retrieved items, on the command line and from Python."""

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from amounts import crossed
from genrank.artifacts.bundle import load_bundle
from genrank.artifacts.index import load_index, write_index
from genrank.cli import main
from genrank.data.loader import Loader, LoaderConfig
from genrank.data.pools import StoredData
from genrank.data.prepared import PreparedData
from genrank.errors import BundleError
from genrank.inference.gen_retriever import GenRetriever, build_index
from genrank.retrieval.hard_negatives import HardNegatives
from genrank.runs.retrieval_objective import retrieval_view
from genrank.runs.retrieval_ranks import locate
from genrank.runs.train import load_run
from genrank.training.trainer import Trainer
from retrievers import SETTINGS, trained
from run_files import LEARNING, first_and_last_loss

USER = "u0000001"


def said(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    capsys.readouterr()
    assert main(list(arguments)) == code
    captured = capsys.readouterr()
    return captured.out if code == 0 else captured.err


def retrieved(capsys: pytest.CaptureFixture[str], run: Path, *arguments: str) -> dict[str, Any]:
    return json.loads(said(capsys, "retrieve", str(run), "--json", *arguments))


@pytest.mark.parametrize(
    ("recipe", "settings"),
    crossed(
        ["grank-small", "generator-small", "dssm-small"],
        [("--set", "model.events=all"), (), ("--set", "model.full_softmax=0")],
    ),
)
def test_every_recipe_learns_is_evaluated_and_retrieves(
    recipe: str, settings: tuple[str, ...], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained(data, tmp_path / "run", "--recipe", recipe, *settings, *LEARNING)
    first, last = first_and_last_loss(run)
    assert last < 0.97 * first
    judged = json.loads(said(capsys, "evaluate", str(run), "--json"))
    assert {"hr@10", "ndcg@10", "recall@50", "recall@500"} <= set(judged["retrieval"])
    assert judged["repeated_targets"] > 0
    assert 0 < judged["retrieval"]["recall@500"] < 1  # of fewer than 500 items, but for those that were seen
    assert set(judged["stages"]) == {"popularity", "generator"} | ({"ranker"} if recipe == "grank-small" else set())
    assert main(["index", str(run)]) == 0
    assert len(retrieved(capsys, run, "--user", "u1", "--k", "5")["items"]) == 5


def weights(run: Path) -> bytes:
    return next((run / "bundle").glob("*/model.safetensors")).read_bytes()


def test_stopped_between_two_embeddings_of_the_catalogue_and_resumed_equals_the_run_that_was_not(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("genrank.retrieval.hard_negatives.ROWS_PER_STEP", 64)
    settings = ("training.epochs=2", "training.log_steps=2", "training.checkpoint_steps=5", "loader.batch_tokens=512")
    arguments = ["--recipe", "grank-small", *(flag for setting in settings for flag in ("--set", setting))]
    whole = trained(data, tmp_path / "whole", *arguments)
    made = []
    embedded, after_step = HardNegatives._embedded, Trainer._after_step

    def counted(hard: HardNegatives) -> Tensor:
        made.append(hard.steps_between)
        return embedded(hard)

    def stopping(trainer: Trainer, num_exposures: int) -> None:
        trainer._stop = trainer.step == 6
        after_step(trainer, num_exposures)

    monkeypatch.setattr(HardNegatives, "_embedded", counted)
    monkeypatch.setattr(Trainer, "_after_step", stopping)
    stopped = tmp_path / "stopped"
    flags = [flag for setting in (*SETTINGS, *settings) for flag in ("--set", setting)]
    assert main(["train", str(data), "--out", str(stopped), "--recipe", "grank-small", *flags]) == 130
    assert 1 < made[0] < 7, "the catalogue must be embedded more than once, and not at every step"
    assert 7 % made[0], "it must stop where the next step does not embed anew"
    monkeypatch.setattr(Trainer, "_after_step", after_step)
    assert main(["train", str(data), "--out", str(stopped), "--resume"]) == 0
    assert weights(stopped) == weights(whole)
    assert (stopped / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


def test_with_seen_items_allowed_a_list_as_long_as_the_catalogue_has_every_target(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained(data, tmp_path / "run", "--recipe", "generator-small", "--set", "model.exclude_seen=false")
    assert json.loads(said(capsys, "evaluate", str(run), "--json"))["retrieval"]["recall@500"] == 1


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_what_is_retrieved_is_what_the_evaluation_put_first(grank: Path, precision: str) -> None:
    config, folder = load_run(grank)
    model = load_bundle(grank).retriever()
    stored = StoredData.open(folder, view=partial(retrieval_view, config.model))
    data = stored.whole()
    builder = data.builder(config.sequence, config.model.search)
    samples = data.part(builder, "test")
    found = locate(model, [Loader(builder, samples, LoaderConfig(batch_tokens=4096, shuffle=False))])
    served = GenRetriever.load(grank, precision=precision, in_memory=True)
    ids, users = data.items.ids, data.users.ids
    checked = 0
    for number in np.unique(found.request, return_index=True)[1][:25].tolist():
        row = int(np.flatnonzero(builder.request_key == found.request[number])[0])
        user = str(users[int(found.user[number])])
        answer = served.retrieve(user, k=10, time=int(builder.request_time[row]))
        assert list(answer.items) == [str(ids[item]) for item in found.top[number].tolist()]
        checked += answer.num_history > 0
    assert checked > 10


def test_seen_blocked_and_excluded_items_are_never_retrieved(grank: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = PreparedData.load(load_run(grank)[1])
    everything = retrieved(capsys, grank, "--user", USER, "--k", "100000")
    assert 0 < len(everything["items"]) < len(data.items) - 1  # k is larger than the catalogue, and some are seen
    t, user = data.timelines, int(data.users.find([USER])[0])
    index = t.users.tolist().index(user)
    rows = slice(t.offsets[index], t.offsets[index + 1])
    seen = {str(data.items.ids[i]) for i in t.item[rows][t.tasks["click"][rows] == 1].tolist()}
    assert len(everything["items"]) == len(data.items) - 1 - len(seen)
    assert not seen & set(everything["items"])
    first = everything["items"][:3]
    less = retrieved(capsys, grank, "--user", USER, "--k", "100000", "--exclude", ",".join(first))
    assert set(less["items"]) == set(everything["items"]) - set(first)
    topic = data.items.features["topic"]
    raw = next(iter(GenRetriever.load(grank).catalogue.encoder.vocabularies["topic"]))
    blocked = retrieved(capsys, grank, "--user", USER, "--k", "100000", "--without", f"topic={raw}")
    code = GenRetriever.load(grank).catalogue.encoder.vocabularies["topic"][raw]
    assert set(blocked["items"]) == {
        item for item in everything["items"] if topic[int(data.items.find([item])[0])] != code
    }
    assert len(blocked["items"]) < len(everything["items"])


def test_a_user_without_history_gets_an_answer_that_says_so(grank: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = retrieved(capsys, grank, "--user", "nobody", "--k", "7")
    assert (answer["user_known"], answer["num_history"], len(answer["items"])) == (False, 0, 7)
    assert "unknown: retrieved with an empty history" in " ".join(
        said(capsys, "retrieve", str(grank), "--user", "nobody").split()
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--k", "0"), "k is 0"),
        (("--without", "topc=1"), "did you mean 'topic'"),
        (("--without", "topic"), "expected NAME=VALUE"),
    ],
)
def test_bad_requests_are_refused_in_a_line(
    grank: Path, arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    error = said(capsys, "retrieve", str(grank), "--user", "u1", *arguments, code=2)
    assert message in error
    assert error.count("\n") == 1


def test_rankers_and_retrievers_are_not_taken_for_each_other(
    grank: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "a retriever" in said(capsys, "rank", str(grank), "--user", "u1", "--candidates", "i1", code=2)
    assert "a retriever" in said(capsys, "serve", str(grank), "--port", "0", code=2)
    assert "a ranker" in said(capsys, "index", str(run), code=2)
    assert "a ranker" in said(capsys, "retrieve", str(run), "--user", "u1", code=2)


@pytest.fixture
def copied(grank: Path, tmp_path: Path) -> Path:
    shutil.copytree(grank, tmp_path / "run")
    return tmp_path / "run"


def test_an_index_that_does_not_fit_is_refused(copied: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused() -> str:
        return said(capsys, "retrieve", str(copied), "--user", "u1", code=2)

    version = (copied / "index" / "latest").read_text().strip()
    vectors = copied / "index" / version / "embedded.npy"
    content = vectors.read_bytes()
    vectors.write_bytes(content[:-4] + b"\x00\x00\x80\x7f")
    assert "damaged" in refused()
    vectors.unlink()
    assert "missing" in refused()
    vectors.write_bytes(content)
    about = copied / "index" / version / "index.json"
    about.write_text(about.read_text().replace('"width": 16', '"width": 17'))
    assert "index.json was edited" in refused()
    about.write_text("{")
    assert "damaged" in refused()
    shutil.rmtree(copied / "index")
    assert "run genrank index RUN" in refused()
    other = trained(data, copied.parent / "other", "--recipe", "grank-small", "--seed", "1")
    assert main(["index", str(other)]) == 0
    shutil.copytree(other / "index", copied / "index")
    assert "an index of model" in refused()


def test_an_interrupted_build_leaves_the_old_index_live(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = GenRetriever.load(copied)

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            build_index(copied)
    after = GenRetriever.load(copied)
    assert after.index_version == before.index_version
    assert after.retrieve("u1", k=5).items == before.retrieve("u1", k=5).items


def test_vectors_that_are_not_finite_are_named(tmp_path: Path) -> None:
    vectors = np.ones((3, 4), np.float32)
    vectors[1, 2] = np.nan
    with pytest.raises(BundleError, match=r"item 'b' is not finite \(1 of 3 are not\)"):
        write_index(tmp_path, model="m", ids=["a", "b", "c"], embedded_IW=vectors)
    with pytest.raises(BundleError, match="no items"):
        write_index(tmp_path, model="m", ids=[], embedded_IW=vectors[:0])
    with pytest.raises(BundleError, match="no index here"):
        load_index(tmp_path, model="m", width=4)


def test_a_catalogue_of_one_item_can_be_learnt_and_searched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log.txt"
    log.write_text("".join(f"u{user} only only only only\n" for user in range(6)))
    assert main(["prepare", str(log), "--source", "sequences", "--out", str(tmp_path / "data")]) == 0
    for recipe in ("grank-small", "dssm-small"):
        run = trained(tmp_path / "data", tmp_path / recipe, "--recipe", recipe, "--set", "model.exclude_seen=false")
        assert json.loads(said(capsys, "evaluate", str(run), "--json"))["retrieval"]["hr@10"] == 1
        assert main(["index", str(run)]) == 0
        assert retrieved(capsys, run, "--user", "u1", "--k", "5")["items"] == ["only"]


def test_the_same_items_under_the_same_model_are_the_same_index(grank: Path) -> None:
    version = (grank / "index" / "latest").read_text()
    assert main(["index", str(grank), "--data", str(load_run(grank)[1])]) == 0
    assert (grank / "index" / "latest").read_text() == version
    assert len(list((grank / "index").iterdir())) == 2
