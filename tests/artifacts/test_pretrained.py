"""Trained models that are passed on: the same answers from the folder, and a card that says what they are."""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from genrank import GenRanker, GenRetriever
from genrank.cli import main
from genrank.errors import BundleError, MissingExtraError, OutputError


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A Hub of one repository, as far as it is called."""
    made = SimpleNamespace(uploaded={}, created=[], folder=None)

    class HfApi:
        def create_repo(self, name: str, *, private: bool, exist_ok: bool) -> None:
            made.created.append((name, private, exist_ok))

        def upload_folder(self, *, folder_path: str, repo_id: str) -> str:
            made.folder = folder_path
            return f"https://example.org/{repo_id}"

    def snapshot_download(name: str, *, revision: str | None) -> str:
        if name != "someone/feed":
            raise RuntimeError(f"404: {name}\nand more")
        return str(made.folder)

    module: Any = SimpleNamespace(HfApi=HfApi, snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return made


def test_a_ranker_answers_from_the_folder_as_from_its_run(run: Path, data: Path, tmp_path: Path) -> None:
    assert main(["evaluate", str(run)]) == 0
    before = GenRanker.load(run)
    folder = before.save_pretrained(tmp_path / "passed on")
    after = GenRanker.from_pretrained(folder, data=data)
    items = before.items.ids.to_pylist()[1:20]
    user = before.users.ids.to_pylist()[1]
    assert after.rank(user, items) == before.rank(user, items)
    card = (folder / "README.md").read_text()
    assert "from_pretrained" in card
    assert before.bundle.version in card
    assert "click (binary)" in card
    assert "auc 0." in card
    assert "ids of its users" in card
    assert not list(tmp_path.rglob("*.part*"))


def test_a_retriever_is_passed_on_with_its_index(grank: Path, data: Path, tmp_path: Path) -> None:
    before = GenRetriever.load(grank)
    folder = before.save_pretrained(tmp_path / "out")
    user = str(before.engine.histories.user_table.ids[1])
    after = GenRetriever.from_pretrained(folder, data=data)
    assert replace(after.retrieve(user), seconds={}) == replace(before.retrieve(user), seconds={})
    assert "GenRetriever" in (folder / "README.md").read_text()


def test_what_was_damaged_on_the_way_is_refused(run: Path, tmp_path: Path) -> None:
    folder = GenRanker.load(run).save_pretrained(tmp_path / "out")
    weights = next(folder.glob("bundle/*/model.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(BundleError, match=r"model\.safetensors"):
        GenRanker.from_pretrained(folder)


def test_a_folder_that_holds_something_is_left_alone(run: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("kept")
    with pytest.raises(OutputError):
        GenRanker.load(run).save_pretrained(tmp_path / "out")
    assert [each.name for each in (tmp_path / "out").iterdir()] == ["mine"]


def test_a_model_goes_to_the_hub_and_comes_back(run: Path, data: Path, tmp_path: Path, hub: SimpleNamespace) -> None:
    address = GenRanker.load(run).push_to_hub("someone/feed", tmp_path / "out")
    assert address == "https://example.org/someone/feed"
    assert hub.created == [("someone/feed", True, True)]
    assert GenRanker.from_pretrained("someone/feed", data=data).bundle.version == GenRanker.load(run).bundle.version
    with pytest.raises(BundleError, match=r"can't be downloaded from the Hub \(404: someone/else\)"):
        GenRanker.from_pretrained("someone/else")


def test_without_the_hubs_library_the_message_says_what_to_install(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match="pip install huggingface_hub"):
        GenRanker.load(run).push_to_hub("someone/feed", tmp_path / "out")
    with pytest.raises(MissingExtraError, match="someone/feed: there is no such folder"):
        GenRanker.from_pretrained("someone/feed")
    with pytest.raises(BundleError, match="give one written by save_pretrained"):
        GenRanker.from_pretrained("nowhere")
