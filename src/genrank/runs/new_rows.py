"""The rows of items that have been admitted since a run was trained, begun from what is known of similar items.

The model has learned a row for each item that it was trained on, and a frozen embedding of the content says which of
those items are like a new one.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genrank.data.tables import FeatureTable
from genrank.errors import ConfigError
from genrank.nn.embeddings import Table, module_key
from genrank.schema import DataSpec
from genrank.training.optimizers import RowWiseAdagrad

NEIGHBOURS = 10  # ours
BLOCK = 2**24  # similarities at a time


def content_features(spec: DataSpec) -> list[str]:
    """The names of the items' frozen embeddings."""
    return [feature.name for feature in spec.of("item") if feature.kind == "embedding"]


def require_content(data: Path, spec: DataSpec) -> None:
    """ConfigError if prepared items have no frozen embedding."""
    if not content_features(spec):
        raise ConfigError(
            f"{data}: warm_start.new_rows=content needs a frozen embedding of the items, and the log's schema names "
            'none; add a feature with owner = "item" and kind = "embedding" and prepare again, or set '
            "warm_start.new_rows=unknown"
        )


def item_content(items: FeatureTable, spec: DataSpec, size: int) -> Tensor:
    """(size, D) by index of item_id all content embeddings, each of unit length or, where an item has none, zeros."""
    index = np.asarray(items.features["item_id"])
    vectors = torch.cat(
        [F.normalize(torch.from_numpy(np.array(items.features[name])), dim=-1) for name in content_features(spec)], -1
    )
    content = torch.zeros(size, vectors.shape[1])
    content[torch.from_numpy(index.astype(np.int64))] = vectors
    content[0] = 0
    return content


@torch.no_grad()
def begin_from_content(model: nn.Module, sparse: RowWiseAdagrad, content: Tensor, num_known: int) -> None:
    """In tables of items, set the rows from `num_known` on to the mean of the rows of the nearest trained items.

    sparse: its state says which rows were trained. content: as `item_content` returns it. An item without content
    keeps its row.
    """
    for table in item_tables(model):
        trained = sparse.state[table.weight]["sum"][:num_known].cpu() > 0
        known = torch.nonzero(trained & content[:num_known].any(-1)).flatten()
        new = num_known + torch.nonzero(content[num_known:].any(-1)).flatten()
        if len(known) and len(new):
            near = known[nearest(content[new], content[known])]
            table.weight[new] = table.weight[near].mean(1)


def item_tables(model: nn.Module) -> Sequence[Table]:
    """The tables that have a row per item."""
    key = module_key("item_id")
    return [module for name, module in model.named_modules() if name.endswith(key) and isinstance(module, Table)]


def nearest(queries_ND: Tensor, keys_KD: Tensor) -> Tensor:
    """(N, NEIGHBOURS) the keys with the largest inner products; all keys if they are fewer."""
    block = max(BLOCK // len(keys_KD), 1)
    found = [(each @ keys_KD.T).topk(min(NEIGHBOURS, len(keys_KD))).indices for each in torch.split(queries_ND, block)]
    return torch.cat(found)
