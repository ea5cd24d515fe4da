"""Models are published, checked, swapped under traffic and rolled back."""

import json
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest_service import Running
from genrank.cli import main
from genrank.data.manifest import hash_file
from genrank.errors import BundleError
from genrank.service.core import RankingService
from genrank.service.deployment import RankRequest
from genrank.service.options import ServiceOptions
from genrank.service.watch import Watcher
from genrank.serving.bundle import Bundle, load_bundle
from genrank.serving.catalogue import Item
from genrank.serving.store import Event, SQLiteStore
from genrank.serving.versions import check_golden, current, publish


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


def spoil(bundle: Bundle) -> None:
    """Other weights, with hashes that fit them."""
    path = bundle.folder / "model.safetensors"
    save_file({name: value + 0.1 * torch.randn(value.shape) for name, value in load_file(path).items()}, path)
    about = json.loads((bundle.folder / "bundle.json").read_text())
    about["files"]["model.safetensors"] = hash_file(path)
    (bundle.folder / "bundle.json").write_text(json.dumps(about))


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
    spoil(load_bundle(models / second))
    with pytest.raises(BundleError, match="golden request of user"):
        check_golden(load_bundle(models / second))
    with pytest.raises(BundleError, match="golden request of user"):
        publish(other, models)
    assert current(models) == first


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
    request = RankRequest(user="u", candidates=(*items, "new"), time=10)
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
    spoil(load_bundle(models / second))
    assert not watcher.look()
    assert service.version == first
    assert f"stays with {first}" in caplog.text
    assert not watcher.look()
    assert caplog.text.count("stays with") == 1  # said once
    shutil.rmtree(models / second)
    assert main(["publish", "--to", str(models), "--roll-back"]) == 0
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
