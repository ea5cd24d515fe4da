"""The items to retrieve from: their features as tensors, and how often each was a target in training.

Row 0 is the unknown item, which is never retrieved. Shapes: I items, row 0 included, J that were a target in training.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genrank.batch import FeatureColumns, map_arrays, sent
from genrank.data.tables import FeatureTable
from genrank.nn.embeddings import FeatureEmbedding
from genrank.retrieval.pieces import pieces
from genrank.retrieval.retriever import Retriever

ROWS_AT_ONCE = 65536


@dataclass(frozen=True)
class ItemVectors:
    """target_count: (I). trained_J: rows that were a target in training, in order; losses are over these items."""

    table: FeatureTable
    target_count: Tensor  # int64
    trained_J: Tensor  # int64
    device: torch.device

    @classmethod
    def of(cls, table: FeatureTable, target_count: NDArray[np.int64], device: torch.device) -> "ItemVectors":
        """target_count: (I) how often each row was a target in training; that of row 0 is not counted."""
        count = torch.from_numpy(target_count.copy())
        count[0] = 0
        return cls(table, count.to(device), count.nonzero().squeeze(1).to(device), device)

    @property
    def shown(self) -> Tensor:
        """Rows of items that were shown in training, in order: only these could be retrieved then."""
        was_shown = torch.from_numpy(self.table.train_count > 0).to(self.device) | (self.target_count > 0)
        was_shown[0] = False
        return was_shown.nonzero().squeeze(1)

    def columns(self, rows: Tensor) -> FeatureColumns:
        """Features of the given rows, on the device. rows: on the host, as the table is."""
        columns: FeatureColumns = map_arrays(
            self.table.rows(rows.cpu().numpy()), lambda array: torch.from_numpy(np.ascontiguousarray(array))
        )
        moved: FeatureColumns = map_arrays(columns, lambda tensor: sent(tensor, self.device))
        return moved

    @cached_property
    def trained_columns(self) -> FeatureColumns:
        """Features of `trained_J`, on the device."""
        return self.columns(self.trained_J)

    def embedded(self, items: FeatureEmbedding, rows: Tensor) -> Tensor:
        """(N, W) embedded items."""
        embedded: Tensor = items(self.columns(rows))
        return embedded


@torch.no_grad()
def embed_all(model: Retriever, table: FeatureTable, rows: NDArray[np.int64] | None = None) -> Tensor:
    """(I, W) embedded items: those of the given rows, or all, row 0 being the unknown item.

    `model.vectors` computes an index's vectors from them.
    """
    device = next(model.parameters()).device
    catalogue = ItemVectors.of(table, np.zeros(len(table), np.int64), device)
    wanted = torch.arange(len(table)) if rows is None else torch.from_numpy(rows)
    return torch.cat([catalogue.embedded(model.items, wanted[part]) for part in pieces(len(wanted), ROWS_AT_ONCE)])
