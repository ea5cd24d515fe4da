"""A family of models is one module: a toy one, defined here, goes the whole way without a line of genrank changed."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor, nn

import genrank
from genrank.artifacts.bundle import load_bundle
from genrank.batch import PackedBatch
from genrank.config import build
from genrank.data.loader import LoaderConfig
from genrank.data.sequence import SequenceConfig
from genrank.errors import BundleError, ConfigError
from genrank.inference.sqlite_store import SQLiteStore
from genrank.model_config import ModelConfig
from genrank.models.inputs import Inputs, RankerConfig
from genrank.models.outputs import Outputs
from genrank.models.ranker import Ranker
from genrank.runs.run_config import RunConfig
from genrank.schema import DataSpec
from genrank.server.query import PipelineQuery
from genrank.server.ranking_service import RankingService
from genrank.server.service_options import ServiceOptions
from genrank.training.trainer import TrainingConfig


@dataclass(frozen=True, kw_only=True)
class ToyConfig(RankerConfig):
    """Looks at the item alone."""

    kind: Literal["toy"] = "toy"

    def build(self, spec: DataSpec, *, max_history: int) -> "Toy":
        return Toy(self, spec)


class Toy(Ranker):
    def __init__(self, config: ToyConfig, spec: DataSpec):
        super().__init__()
        self.config, self.spec = config, spec
        self.inputs = Inputs(config, spec, use_users=False, use_actions=False)
        self.norm = nn.LayerNorm(config.width)
        self.outputs = Outputs(
            spec,
            config.heads,
            width=config.width,
            prior=self.inputs.prior,
            dropout=config.dropout,
            duration=config.duration_head,
            position=False,
        )

    def forward(self, batch: PackedBatch) -> dict[str, Tensor]:
        return self.score(None, batch)

    def encode_history(self, batch: PackedBatch) -> None:
        return None

    def score(self, state: Any, batch: PackedBatch) -> dict[str, Tensor]:
        items_IW = self.inputs.items(batch.items)
        x_CW = self.norm(items_IW[batch.candidates.item])
        logits: dict[str, Tensor] = self.outputs(x_CW, x_CW, batch.candidates.slot)
        return logits


@pytest.fixture(scope="module")
def toy(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[genrank.Run]:
    config = RunConfig(
        recipe="toy",
        threads=1,
        sequence=SequenceConfig(max_history=16, grouping="user"),
        loader=LoaderConfig(batch_tokens=1024),
        model=ToyConfig(width=16, num_heads=2, dropout=0.0),
        training=TrainingConfig(epochs=4, learning_rate=1e-2),
    )
    yield genrank.train(data, recipe=config, out=tmp_path_factory.mktemp("toy") / "run")
    del ModelConfig.kinds["toy"]


def test_it_is_trained_and_judged(toy: genrank.Run) -> None:
    assert genrank.evaluate(toy, part="train").tasks["click"]["auc"] > 0.6  # what it learned from; 0.5 is chance
    assert 0 < genrank.evaluate(toy).tasks["click"]["auc"] < 1
    assert genrank.Run.open(toy.folder).config.model == toy.config.model


def test_it_ranks_scores_and_serves_alike(toy: genrank.Run) -> None:
    ranker = genrank.load(toy)
    assert isinstance(ranker, genrank.GenRanker)
    items, user, time = ranker.items.ids.to_pylist()[1:9], ranker.users.ids.to_pylist()[1], 1_790_000_000
    ranked = {place.item: place.value for place in ranker.rank(user, items, time=time).places}
    table = genrank.score(ranker, pa.table({"user": [user] * 8, "item": items, "time": [time] * 8}))
    assert np.allclose(table["value"].to_numpy(), [ranked[item] for item in items], atol=1e-6)
    service = RankingService(load_bundle(toy.folder), store=SQLiteStore(":memory:"), options=ServiceOptions())
    served = service.rank(PipelineQuery(user=user, candidates=tuple(items), time=time)).result(20)
    assert {place.item: place.value for place in served.places} == pytest.approx(ranked, abs=1e-6)
    service.stop()


def test_a_ranker_retrieves_nothing(toy: genrank.Run) -> None:
    with pytest.raises(BundleError, match="a ranker, which retrieves nothing"):
        load_bundle(toy.folder).retriever()


def test_settings_of_a_family_are_its_own(toy: genrank.Run) -> None:
    values = {"recipe": "x", "model": {"kind": "toy", "width": 32, "num_heads": 2}}
    assert build(RunConfig, values, where="here").model == ToyConfig(width=32, num_heads=2)
    with pytest.raises(ConfigError, match="here: model: unknown key 'num_blocks'"):
        build(RunConfig, {"recipe": "x", "model": {"kind": "toy", "num_blocks": 2}}, where="here")
    with pytest.raises(ConfigError, match="did you mean 'toy'"):
        build(RunConfig, {"recipe": "x", "model": {"kind": "toi"}}, where="here")
    with pytest.raises(ConfigError, match="the key 'kind' is missing"):
        build(RunConfig, {"recipe": "x", "model": {"width": 8}}, where="here")


def test_every_family_on_file_is_known_without_its_module_being_named() -> None:
    assert {"sequence", "pointwise", "retrieval"} <= set(ModelConfig.kinds)
    assert torch.nn.Module not in ModelConfig.kinds.values()
