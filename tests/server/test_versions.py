"""Models are published, checked, swapped under traffic and rolled back."""

import json
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest_service import Running
from genrank.artifacts.bundle import load_bundle
from genrank.artifacts.versioned import LENGTH
from genrank.cli import main
from genrank.data.integrity import hash_file
from genrank.errors import BundleError
from genrank.inference import sqlite_store
from genrank.inference.catalogue import Item
from genrank.inference.published import check_golden, current, publish
from genrank.inference.sqlite_store import SQLiteStore
from genrank.inference.store import Event
from genrank.schema import fingerprint
from genrank.server.deployment import Deployment
from genrank.server.query import PipelineQuery
from genrank.server.ranking_service import RankingService
from genrank.server.service_options import ServiceOptions
from genrank.server.watch import Watcher


@pytest.fixture(scope="module")
def other(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another run on the same data."""
    out = tmp_path_factory.mktemp("other") / "run"
    tiny = ["model.width=16", "model.num_heads=2", "threads=1", "training.epochs=1", "seed=7"]
    flags = [flag for text in tiny for flag in ("--set", text)]
    assert main(["train", str(data), "--recipe", "genrank-small", "--out", str(out), *flags]) == 0
    return out


@pytest.fixture
def models(run: Path, tmp_path: Path) -> Path:
    """A folder with one published model."""
    assert main(["publish", str(run), "--to", str(tmp_path / "models")]) == 0
    return tmp_path / "models"


def start(models: Path) -> RankingService:
    bundle = load_bundle(models / current(models))
    return RankingService(bundle, store=SQLiteStore(":memory:"), options=ServiceOptions(deadline=20.0))


def spoil(models: Path, version: str) -> str:
    """Other weights, with all hashes made anew: the new version, which is current. The old one is gone."""
    folder = models / version
    path = folder / "model.safetensors"
    save_file({name: value + 0.1 * torch.randn(value.shape) for name, value in load_file(path).items()}, path)
    about = json.loads((folder / "bundle.json").read_text())
    about["files"]["model.safetensors"] = hash_file(path)
    (folder / "bundle.json").write_text(json.dumps(about))
    spoilt = fingerprint(about)[:LENGTH]
    folder.rename(models / spoilt)
    golden = json.loads((models / f"{version}.golden.json").read_text()) | {"version": spoilt}
    write_golden(models / f"{spoilt}.golden.json", golden)
    (models / "current").write_text(spoilt)
    return spoilt


def write_golden(path: Path, content: dict) -> None:
    """Golden requests with a hash that fits them."""
    rest = {name: content[name] for name in content if name != "hash"}
    path.write_text(json.dumps({**rest, "hash": fingerprint(rest)}))


def test_published_models_are_checked_and_rolled_back(
    models: Path, run: Path, other: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = current(models)
    assert publish(run, models) == first  # again: nothing changes
    second = publish(other, models)
    assert second != first == load_bundle(models / first).version
    assert current(models) == second
    capsys.readouterr()
    assert main(["publish", "--to", str(models), "--roll-back"]) == 0
    assert capsys.readouterr().out.startswith(first)
    assert current(models) == first
    check_golden(load_bundle(models / first))
    spoilt = spoil(models, second)
    with pytest.raises(BundleError, match="golden request of user"):
        check_golden(load_bundle(models / spoilt))
    assert publish(other, models) == second
    assert current(models) == second


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--roll-back"], "nothing to roll back to"),
        ([], "either a RUN or --roll-back"),
        (["nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_published(
    arguments: list[str], said: str, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["publish", *arguments, "--to", str(models)]) == 2
    assert said in capsys.readouterr().err


def test_a_swap_keeps_events_items_and_requests(models: Path, other: Path, data: Path) -> None:
    service = start(models)
    items = tuple(pq.read_table(data / "items.parquet").column("id").to_pylist()[1:6])
    service.put_items([Item(id="new", features={"length": 9.0})])
    service.take_events([Event(user="u", item=items[0], time=5, actions={"click": True})])
    request = PipelineQuery(user="u", candidates=(*items, "new"), time=10)
    before = service.rank(request).result(20)
    first = service.version
    service.swap(load_bundle(models / publish(other, models)))
    after = service.rank(request).result(20)
    assert [before.model_version, after.model_version] == [first, service.version]
    assert after.num_history == after.num_encoded == 1  # nothing encoded by the old model is used
    assert {place.item: place.known for place in after.places}["new"]
    assert {p.item: p.value for p in after.places} != pytest.approx({p.item: p.value for p in before.places}, abs=1e-4)
    service.swap(load_bundle(models / first))
    again = service.rank(request).result(20)
    assert {p.item: p.value for p in again.places} == pytest.approx({p.item: p.value for p in before.places}, abs=1e-6)
    service.stop()


def test_a_version_that_fails_its_check_is_not_served(
    models: Path, other: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service = start(models)
    watcher = Watcher(service, models, period=3600.0)
    first = service.version
    second = publish(other, models)
    spoilt = spoil(models, second)
    assert not watcher.look()
    assert service.version == first
    assert f"keeps model {first}" in caplog.text
    assert not watcher.look()
    assert caplog.text.count("keeps model") == 1  # said once
    shutil.rmtree(models / spoilt)
    (models / "current").write_text(first)
    assert not watcher.look()  # back to what it serves
    publish(other, models)
    assert watcher.look()
    assert service.version == second
    watcher.stop()
    service.stop()


def test_no_request_is_lost_while_models_are_swapped(
    serve: Callable[..., Running], models: Path, run: Path, other: Path, data: Path
) -> None:
    running = serve(folder=models)
    items = pq.read_table(data / "items.parquet").column("id").to_pylist()[1:9]
    seen: list[str] = []
    done = threading.Event()

    def ask() -> None:
        with running.client() as client:
            while not done.is_set():
                seen.append(client.rank("u0000001", items)["model"])

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    versions = [current(models)]
    with running.client() as client:
        for folder in (other, run):
            versions.append(publish(folder, models))
            until = time.monotonic() + 60
            while client.ready()["model"] != versions[-1]:
                assert time.monotonic() < until
                time.sleep(0.05)
    done.set()
    for thread in threads:
        thread.join()
    assert versions[0] == versions[2] != versions[1]
    assert set(seen) == set(versions)
    assert running.stop() == 0
    answers = [json.loads(line) for line in running.said if '"path"' in line]
    ranked = [answer["status"] for answer in answers if answer["path"] == "/v1/rank"]
    assert len(ranked) >= len(seen) > 10
    assert set(ranked) == {200}


def edited(golden: dict, what: str) -> dict:
    """Golden requests of which one has another `what`; `requests` are all gone."""
    (one, *others) = golden["requests"]
    if what == "requests":
        return golden | {"requests": []}
    changed = {"scores": {task: [score + 0.1 for score in scores] for task, scores in one["scores"].items()}}
    if what == "version":
        return golden | {"version": "0" * 16}
    changed |= {"values": [value + 0.1 for value in one["values"]], "ranking": one["ranking"][::-1]}
    return golden | {"requests": [one | {what: changed[what]}, *others]}


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("scores", "scores than"),
        ("values", "other values"),
        ("ranking", "other order"),
        ("requests", "no golden requests"),
        ("version", "of version '0000000000000000', not"),
    ],
)
def test_golden_requests_cover_scores_values_and_order(models: Path, what: str, said: str) -> None:
    path = models / f"{current(models)}.golden.json"
    golden = json.loads(path.read_text())
    bundle = load_bundle(models / current(models))
    path.write_text(json.dumps(edited(golden, what)))
    with pytest.raises(BundleError, match=r"edited or damaged; run genrank publish"):
        check_golden(bundle)
    write_golden(path, edited(golden, what))
    with pytest.raises(BundleError, match=said):
        check_golden(bundle)


def test_golden_requests_of_another_format_are_refused(models: Path) -> None:
    path = models / f"{current(models)}.golden.json"
    write_golden(path, json.loads(path.read_text()) | {"format": 1})
    with pytest.raises(BundleError, match=r"not golden requests of format 2; run genrank publish"):
        check_golden(load_bundle(models / current(models)))


def test_publishing_again_replaces_a_version_that_is_damaged(models: Path, run: Path) -> None:
    weights = models / current(models) / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    with pytest.raises(BundleError, match=r"model\.safetensors: damaged"):
        load_bundle(models / current(models))
    assert publish(run, models) == current(models)
    assert weights.read_bytes() == whole


@pytest.mark.parametrize(("shift", "refused"), [(0.01, {"fp32"}), (0.1, {"fp32", "bf16"})])
def test_golden_requests_are_held_to_the_tolerance_of_the_precision_that_serves(
    models: Path, shift: float, refused: set[str]
) -> None:
    bundle, path = load_bundle(models / current(models)), models / f"{current(models)}.golden.json"
    golden = json.loads(path.read_text())
    check_golden(bundle, precision="bf16")
    for one in golden["requests"]:
        one["scores"] = {task: [score + shift for score in scores] for task, scores in one["scores"].items()}
    write_golden(path, golden)
    for precision in ("fp32", "bf16"):
        refusal = pytest.raises(BundleError, match=f"published, on cpu in {precision}")
        with refusal if precision in refused else nullcontext():
            check_golden(bundle, precision=precision)


def test_golden_requests_of_an_earlier_format_are_written_anew_by_publishing_again(models: Path, run: Path) -> None:
    path = models / f"{current(models)}.golden.json"
    whole = path.read_text()
    path.write_text(json.dumps(json.loads(whole)["requests"]))
    with pytest.raises(BundleError, match="run genrank publish RUN"):
        check_golden(load_bundle(models / current(models)))
    publish(run, models)
    assert path.read_text() == whole


@pytest.mark.parametrize("content", [b"", b"../run", b"/etc", b"\xff\xfe\x00", b".hidden", b"a/b", b"x" * 300])
def test_a_pointer_that_is_no_name_of_a_version_is_refused(
    models: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (models / "current").write_bytes(content)
    assert main(["serve", str(models), "--port", "0"]) == 2
    said = capsys.readouterr().err
    assert "current" in said
    assert "genrank publish" in said
    assert said.count("\n") == 1


def test_a_published_model_that_fails_its_golden_requests_is_not_served_at_start(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(models, current(models))
    assert main(["serve", str(models), "--port", "0"]) == 2
    assert "golden request of user" in capsys.readouterr().err


@pytest.mark.parametrize("trouble", ["deleted", "no pointer", "binary pointer"])
def test_a_current_version_that_is_missing_is_logged_once_and_followed_again_when_it_is_back(
    trouble: str, models: Path, other: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service = start(models)
    watcher = Watcher(service, models, period=3600.0)
    first, aside = service.version, models.with_name("aside")
    moved = models / first if trouble == "deleted" else models / "current"
    moved.rename(aside)
    if trouble == "binary pointer":
        moved.write_bytes(b"\xff\xfe\x00")
    for _ in range(20):
        assert not watcher.look()
    assert caplog.text.count(f"keeps model {first}") == 1
    if trouble == "binary pointer":
        moved.unlink()
    aside.rename(moved)
    assert not watcher.look()
    second = publish(other, models)
    assert watcher.look()
    assert service.version == second
    watcher.stop()
    service.stop()


def test_a_damaged_version_that_is_published_again_is_served(models: Path, other: Path) -> None:
    service = start(models)
    watcher = Watcher(service, models, period=1e6)
    version = publish(other, models)
    golden = models / f"{version}.golden.json"
    good = golden.read_text()
    golden.unlink()
    assert not watcher.look()
    golden.write_text(good)
    assert not watcher.look()  # it has failed, and nobody has published it since
    assert publish(other, models) == version
    assert watcher.look()
    assert service.version == version
    watcher.stop()
    service.stop()


def test_much_that_comes_while_a_model_is_deployed_does_not_stop_it(
    models: Path, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than is told of updates: the model is deployed anew with all of it, and what was kept is no error."""
    service = start(models)
    monkeypatch.setattr(sqlite_store, "MAX_IN_MEMORY", 1)
    warm_up, turns = Deployment.warm_up, iter(range(2))

    def slow(self: Deployment) -> None:
        warm_up(self)
        if next(turns, None) is not None:
            service.store.put_items([Item(id=f"n{n}") for n in range(3)])
            service.store.put_items([Item(id="last")])

    monkeypatch.setattr(Deployment, "warm_up", slow)
    service.swap(load_bundle(other))
    assert service.deployed.context.catalogue.find(["n1", "last"]).all()
    service.stop()
