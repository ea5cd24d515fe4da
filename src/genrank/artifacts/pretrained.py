"""Trained models as folders to share, in the layout of Hugging Face: a bundle, its index, a model card.

    FOLDER/README.md                     the card
    FOLDER/bundle/VERSION, latest        as in a run folder
    FOLDER/index/VERSION, latest         a retriever's

Users' histories and the tables of items and users are not included: they belong to the prepared folder.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genrank.artifacts.bundle import Bundle, copy_bundle, load_bundle
from genrank.artifacts.index import INDEXES, newest_index
from genrank.config import to_dict
from genrank.documents import read_json
from genrank.errors import BundleError, MissingExtraError
from genrank.folders import new_folder
from genrank.text_table import TextTable, to_markdown

HUB = "huggingface_hub"
FIGURES = ("auc", "gauc", "logloss", "pcoc", "mae", "xauc")


def save(bundle: Bundle, out: Path, *, index: Path | None = None) -> Path:
    """Copy a bundle, and an index folder, into the new folder `out`, with a card. OutputError if that fails."""
    with new_folder(out) as part:
        _copy_version(bundle.folder, part / "bundle", lambda folder: copy_bundle(bundle, folder))
        if index is not None:
            newest = newest_index(index)
            _, values = INDEXES.read(newest)
            _copy_version(newest, part / "index", lambda folder: _copy_files(newest, folder, values["files"]))
        (part / "README.md").write_text(card(bundle), encoding="utf-8")
    load_bundle(out)  # verifies the copy
    return out


def fetch(name: str | Path, *, revision: str | None = None) -> Path:
    """The folder of that name, or a repository of the Hub, downloaded. BundleError if neither exists."""
    if Path(name).is_dir():
        return Path(name)
    if str(name).count("/") != 1 or str(name).startswith((".", "/")):
        raise BundleError(f"{name}: there is no such folder; give one written by save_pretrained, or OWNER/NAME")
    hub = _hub(f"{name}: there is no such folder, and for a repository of the Hub")
    try:
        return Path(hub.snapshot_download(str(name), revision=revision))
    except Exception as problem:
        reason = (str(problem).splitlines() or [type(problem).__name__])[0]
        raise BundleError(
            f"{name}: can't be downloaded from the Hub ({reason}); check the name, or log in"
        ) from problem


def push(folder: Path, repository: str, *, private: bool = True) -> str:
    """Upload a folder written by `save`; returns its address. A new repository is private unless `public`."""
    load_bundle(folder)
    hub = _hub("push_to_hub")
    api = hub.HfApi()
    api.create_repo(repository, private=private, exist_ok=True)
    return str(api.upload_folder(folder_path=str(folder), repo_id=repository))


def card(bundle: Bundle) -> str:
    """The model card: what the model is, its use, its training data, its evaluation and its limitations."""
    config, manifest = bundle.config, bundle.manifest
    kind = to_dict(config.model).get("kind", "")
    retrieves = kind == "retrieval"
    train = manifest.counts.train
    tasks = ", ".join(f"{task.name} ({task.kind})" for task in manifest.spec.tasks) or "none: a log of positives"
    features = ", ".join(f"{f.name} ({f.owner}, {f.kind})" for f in manifest.spec.features)
    name = "GenRetriever" if retrieves else "GenRanker"
    call = 'retrieve("USER", k=100)' if retrieves else 'rank("USER", ["ITEM", "ITEM"])'
    return f"""---
library_name: genrank
tags: [recommender-systems, {"retrieval" if retrieves else "ranking"}]
---

# A {"retriever" if retrieves else "ranker"} trained by genrank

Version `{bundle.version}`, kind `{kind}`, made with genrank {manifest.genrank_version}.

```python
from genrank import {name}

model = {name}.from_pretrained("FOLDER", data="PREPARED")  # the prepared folder with the users' histories
print(model.{call})
```

## Training data

{train.exposures:,} exposures in {train.requests:,} requests, from a log of {manifest.counts.users:,} users and \
{manifest.counts.items:,} items. Later exposures were held out for validation and test.

- Tasks: {tasks}
- Features: {features}

## Evaluation

{_figures(bundle)}

## Limitations

- `bundle/` contains the vocabularies of the log: ids of its users and items. Publish it only if these may be public.
- The model was trained on one feed. An id that it has not seen is ranked by its features alone.
- It learned only from items that were shown, so its scores keep the preferences of the policy that logged the
  exposures.

## Configuration

```json
{json.dumps(to_dict(config.model), indent=1)}
```
"""


def _figures(bundle: Bundle) -> str:
    path = bundle.folder.parent.parent / "evaluation.json"  # of the run that the bundle lies in
    if not path.is_file():
        return "The model was not evaluated before it was saved."
    tasks: Mapping[str, Any] = read_json(path, error=BundleError, remedy="evaluate the run again").get("tasks", {})
    rows = [
        [task, ", ".join(f"{name} {found[name]:.4f}" for name in FIGURES if _is_number(found.get(name)))]
        for task, found in tasks.items()
    ]
    if not rows:
        return "See `evaluation.json` of the run."
    lines = to_markdown(TextTable(head=["task", "figures"], rows=rows))
    return "\n".join(["On the run's test part, as `genrank evaluate` prints it:", "", *lines])


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def _copy_version(version: Path, into: Path, copy: Any) -> None:
    folder = into / version.resolve().name
    folder.mkdir(parents=True)
    copy(folder)
    (into / "latest").write_text(folder.name, encoding="utf-8")


def _copy_files(source: Path, into: Path, names: Mapping[str, str]) -> None:
    for name in (*names, INDEXES.about):
        (into / name).parent.mkdir(parents=True, exist_ok=True)
        (into / name).write_bytes((source / name).read_bytes())


def _hub(what: str) -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise MissingExtraError(f"{what} needs {HUB}; pip install {HUB}") from None
    return huggingface_hub
