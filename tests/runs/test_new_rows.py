"""How the rows of new items begin from the content of similar items."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import genrank
from exposure_logs import prepare_log
from genrank.artifacts.bundle import load_bundle
from genrank.data.learned_days import vocabulary_sizes
from genrank.data.tables import FeatureTable
from genrank.errors import ConfigError
from genrank.runs.new_rows import NEIGHBOURS, begin_from_content, item_content, item_tables
from genrank.schema import Feature, SideTable, SideTables
from genrank.training.optimizers import RowWiseAdagrad, split_parameters
from run_days import DAYS, days_log
from worlds import SPEC
from zoo import config as model_config

TINY = ["model.width=16", "model.num_heads=2", "threads=1", "training.epochs=2", "evaluation.num_bootstrap=0",
        "training.sparse_learning_rate=0.5", "loader.batch_tokens=60"]  # fmt: skip
STILL = ["training.learning_rate=1e-30", "training.sparse_learning_rate=1e-30", "warm_start.new_rows=content"]
CONTENT = {
    "tables": SideTables(item=SideTable(path="items.parquet", key="id")),
    "features": (Feature(name="vector", owner="item", kind="embedding", column="vector"),),
}


def vectors_of(items: list[str]) -> np.ndarray:
    """(I, 3) vectors of different lengths; the last item has none."""
    random = np.random.default_rng(1)
    vectors = random.normal(size=(len(items), 3)) * random.uniform(0.5, 4, (len(items), 1))
    vectors[-1] = 0
    return vectors.astype(np.float32)


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of items with content, on each of whose days an item is new."""
    folder, log = tmp_path_factory.mktemp("described"), days_log()
    items = sorted(set(log["item"]))
    pq.write_table(pa.table({"id": items, "vector": list(vectors_of(items))}), folder / "items.parquet")
    return prepare_log(folder, log, **CONTENT).folder


def item_rows(run: Path) -> np.ndarray:
    weights = load_bundle(run).model().state_dict()
    (name,) = [name for name in weights if name.endswith("of_item_id.weight")]
    return weights[name].numpy()


def test_a_new_item_begins_as_the_mean_of_the_most_similar_trained_items(described: Path, tmp_path: Path) -> None:
    first = genrank.train(described, out=tmp_path / "first", recipe="genrank-small", settings=TINY, until=DAYS[3])
    run = genrank.train(described, out=tmp_path / "run", begin_from=first, days=f"{DAYS[3]}..{DAYS[3]}", settings=STILL)
    before, after = item_rows(first.folder), item_rows(run.folder)
    items = FeatureTable.load(described, "item", load_bundle(run.folder).manifest.spec)
    row_of = {int(index): row for row, index in enumerate(items.features["item_id"]) if index}
    vectors = np.stack([items.features["vector"][row_of[index]] for index in range(1, len(after))])
    lengths = np.linalg.norm(vectors, axis=1)
    cosine = vectors[:-1] @ vectors[-1] / (lengths[:-1] * lengths[-1])
    nearest = 1 + np.argsort(-cosine)[:NEIGHBOURS]
    assert len(after) == len(before) + 1 > NEIGHBOURS + 2
    np.testing.assert_allclose(after[: len(before)], before, atol=1e-6)
    np.testing.assert_allclose(after[-1], before[nearest].mean(0), rtol=1e-4, atol=1e-6)
    assert np.abs(after[-1] - before[1:].mean(0)).max() > 1e-4


def test_only_items_that_were_trained_and_have_content_count() -> None:
    size, known = vocabulary_sizes(SPEC)["item_id"], 20
    model = model_config("genrank").build(SPEC, max_history=16)
    sparse = RowWiseAdagrad(split_parameters(model)[1], lr=0.1)
    (table,) = item_tables(model)
    untouched = table.weight.detach().clone()
    sparse.state[table.weight]["sum"][[3, 5, 8, size - 1]] = 1.0
    content = torch.nn.functional.normalize(torch.randn(size, 4), dim=-1)
    content[[0, 5, 22]] = 0
    begin_from_content(model, sparse, content, known)
    expected = untouched.clone()
    expected[known:] = untouched[[3, 8]].mean(0)
    expected[22] = untouched[22]
    torch.testing.assert_close(table.weight.detach(), expected)


def test_content_is_by_index_and_of_unit_length(described: Path) -> None:
    spec = genrank.PreparedData.load(described).manifest.spec
    items = FeatureTable.load(described, "item", spec)
    content = item_content(items, spec, vocabulary_sizes(spec)["item_id"])
    names = np.array(items.ids)
    expected = dict(zip(sorted(names[1:]), vectors_of(sorted(names[1:])), strict=True))
    assert not content[0].any()
    for name, index in zip(names, items.features["item_id"], strict=True):
        if index:
            length = max(float(np.linalg.norm(expected[name])), 1e-12)
            np.testing.assert_allclose(content[index], expected[name] / length, atol=1e-6)


def test_data_without_content_is_refused_in_one_line(tmp_path: Path) -> None:
    plain = prepare_log(tmp_path, days_log()).folder
    first = genrank.train(plain, out=tmp_path / "first", recipe="genrank-small", settings=TINY, until=DAYS[3])
    with pytest.raises(ConfigError, match=r"new_rows=content needs a frozen embedding of the items") as raised:
        genrank.train(plain, out=tmp_path / "run", begin_from=first, settings=STILL)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()
