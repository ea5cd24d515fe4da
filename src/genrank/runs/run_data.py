"""What a run learns from and is validated with: in memory where it fits, else read in pools of users."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import cast

import numpy as np

from genrank.data.loader import Loader, LoaderConfig, TrainingLoader
from genrank.data.pooled_loader import PooledLoader
from genrank.data.pools import StoredData, StoredPart
from genrank.data.positives import num_positives, require_positives
from genrank.data.prepared import PreparedData
from genrank.data.sequence import SequenceBuilder, take
from genrank.errors import ConfigError
from genrank.retrieval.retriever_config import RetrieverConfig, positive_task
from genrank.runs.run_config import RunConfig


@dataclass(frozen=True)
class RunData:
    """The training part, and the loaders of the validation part, one for each of its pools; None: it has no days.

    warning: of memory beyond the bound; empty: none.
    """

    loader: TrainingLoader
    held_out: Iterable[Loader] | None
    warning: str = ""

    @classmethod
    def of(cls, stored: StoredData, config: RunConfig, *, pin: bool) -> "RunData":
        """Both, over the same timelines if these are in memory."""
        task = ""
        if config.model.retrieves:
            task = positive_task(cast(RetrieverConfig, config.model), stored.manifest.spec)
            require_positives(stored.folder, stored.manifest, task, "train")
        validated = num_positives(stored.manifest, task, "valid") or not config.days
        if len(stored.pools(config.loader.max_exposures)) > 1:
            pooled, valid = _pooled(stored, config, pin=pin)
            return cls(pooled, valid if validated else None, stored.too_large(config.loader.max_exposures))
        data = stored.whole()
        builder = data.builder(config.sequence, config.model.search)
        loader = training_loader(data, builder, config, pin=pin)
        if not validated:
            return cls(loader, None)
        return cls(loader, [Loader(builder, data.part(builder, "valid"), evaluation_loading(config))])


def _pooled(stored: StoredData, config: RunConfig, *, pin: bool) -> tuple[PooledLoader, StoredPart]:
    loading = replace(config.loader, seed=config.seed)
    train = StoredPart(data=stored, part="train", sequence=config.sequence, search=config.model.search, loading=loading)
    loader = PooledLoader(train, share=config.train_share, pin=pin)
    _require(len(loader), config)
    return loader, replace(train, part="valid", loading=evaluation_loading(config))


def training_loader(data: PreparedData, builder: SequenceBuilder, config: RunConfig, *, pin: bool = False) -> Loader:
    """The training part in the run's order; of `train_share` of the users, a smaller share's among a larger one's."""
    samples = data.part(builder, "train")
    if config.train_share < 1:
        rank = np.random.default_rng(0).permutation(len(data.timelines.users))
        samples = take(samples, np.flatnonzero(rank[samples.user] < config.train_share * len(rank)))
        _require(len(samples), config)
    return Loader(builder, samples, replace(config.loader, seed=config.seed), pin=pin)


def evaluation_loading(config: RunConfig) -> LoaderConfig:
    """How a part is read to be judged: in order of time, within a pool."""
    return LoaderConfig(
        batch_tokens=config.evaluation.batch_tokens, shuffle=False, max_exposures=config.loader.max_exposures
    )


def _require(found: int, config: RunConfig) -> None:
    if not found:
        raise ConfigError(f"train_share={config.train_share}: leaves no exposures to learn from; raise it")
