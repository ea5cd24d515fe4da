"""Embeddings of features and actions: from indices to vectors of the model's width.

Tables have sparse gradients: only rows that were looked up are updated. Row 0 is "unknown"; it starts at zero, and
in training `id_dropout` and `feature_dropout` replace a share of the known ids and values by it, so that it learns to
represent new items and users and missing values.

Shapes: N rows (distinct items, users or tokens), E channels of a table, W width of the model.
"""

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genrank.batch import FeatureColumns, Jagged
from genrank.schema import DataSpec, FeatureSpec


def module_key(name: str) -> str:
    """A name from the user's schema as a key of a ModuleDict, which can't be an attribute name such as `forward`."""
    return f"of_{name}"


TABLE_SCALE = 0.05  # standard deviation of initial rows; ours
SMALLEST = torch.finfo(torch.float32).tiny  # smallest sum of weights in a division


class Lookup(nn.Module):
    """The rows of an embedding table, wherever it is stored: jagged indices in, rows out. Row 0 is "unknown".

    Models read tables through this interface only, so that a table sharded over processes can replace `Table`.
    """

    size: int  # rows
    dim: int

    @abstractmethod
    def forward(self, index_N: Tensor) -> Tensor:
        """(N, dim) rows of the table."""

    @abstractmethod
    def pooled(self, values: Jagged, share_V: Tensor | None) -> Tensor:
        """(N, dim) sum of each row's values times their shares; without shares their mean; zeros for no values."""

    def mean(self, values: Jagged) -> Tensor:
        """(N, dim) mean over each row's values, weighted if they have weights; row 0 of the table for no values."""
        lengths_N = values.offsets.diff()
        if values.weights is None:
            return self.unknown(lengths_N == 0, self.pooled(values, None))
        row_N = torch.arange(len(lengths_N), device=lengths_N.device)
        row_V = torch.repeat_interleave(row_N, lengths_N, output_size=len(values.values))
        total_N = values.weights.new_zeros(len(lengths_N)).index_add(0, row_V, values.weights)
        share_V = values.weights / total_N.clamp_min(SMALLEST)[row_V]
        return self.unknown(total_N == 0, self.pooled(values, share_V))

    def unknown(self, where_N: Tensor, vectors_ND: Tensor) -> Tensor:
        """(N, dim) the vectors, replaced by row 0 of the table where `where_N`."""
        none = torch.zeros(1, dtype=torch.int64, device=where_N.device)
        return torch.where(where_N[:, None], self(none), vectors_ND)


class Table(Lookup):
    """A table in this process, with sparse gradients."""

    def __init__(self, size: int, dim: int):
        super().__init__()
        self.size, self.dim = size, dim
        self.weight = nn.Parameter(torch.randn(size, dim) * TABLE_SCALE)
        with torch.no_grad():
            self.weight[0] = 0

    def forward(self, index_N: Tensor) -> Tensor:
        """See Lookup."""
        return F.embedding(index_N, self.weight, sparse=True)

    def pooled(self, values: Jagged, share_V: Tensor | None) -> Tensor:
        """See Lookup."""
        mode, shares = ("mean", None) if share_V is None else ("sum", share_V.to(self.weight.dtype))
        return F.embedding_bag(
            values.values, self.weight, values.offsets[:-1], mode=mode, sparse=True, per_sample_weights=shares
        )


def dropped(index_N: Tensor, share: float) -> Tensor:
    """(N) the indices, a random share of them replaced by 0, unknown."""
    return index_N * (torch.rand(index_N.shape, device=index_N.device) >= share) if share else index_N


class FeatureEmbedding(nn.Module):
    """φ: all features of one owner, concatenated and projected to the model's width."""

    def __init__(
        self, specs: Sequence[FeatureSpec], *, dim: int, width: int, id_dropout: float, feature_dropout: float
    ):
        """id_dropout, feature_dropout: shares of ids and of other indices that count as unknown in training."""
        super().__init__()
        self.specs, self.width = tuple(specs), width
        self.id_dropout, self.feature_dropout = id_dropout, feature_dropout
        self.tables = nn.ModuleDict(
            {module_key(spec.name): Table(spec.size, dim) for spec in specs if spec.kind != "embedding"}
        )
        self.frozen = nn.ModuleDict(
            {module_key(spec.name): nn.Linear(spec.dim, dim, bias=False) for spec in specs if spec.kind == "embedding"}
        )
        self.project = nn.Linear(max(len(specs), 1) * dim, width, bias=False)

    def forward(self, columns: FeatureColumns) -> Tensor:
        """(N, W)."""
        projected: Tensor = self.project(self.fields(columns))
        return projected

    def fields(self, columns: FeatureColumns) -> Tensor:
        """(N, features · dim): the features' vectors concatenated, before the projection."""
        return torch.cat([self._embed(spec, columns[spec.name]) for spec in self.specs], -1)

    def _embed(self, spec: FeatureSpec, column: Any) -> Tensor:
        if spec.kind == "embedding":
            embedded: Tensor = self.frozen[module_key(spec.name)](F.normalize(column, dim=-1) * spec.dim**0.5)
            return embedded
        table = self.tables[module_key(spec.name)]
        assert isinstance(table, Lookup)
        share = (self.id_dropout if spec.name in ("item_id", "user_id") else self.feature_dropout) * self.training
        if isinstance(column, Jagged):
            means_ND = table.mean(column)
            lost_N = torch.rand(len(means_ND), device=means_ND.device) < share
            return table.unknown(lost_N, means_ND) if share else means_ND
        vectors: Tensor = table(dropped(column, share))
        return vectors


def action_sizes(spec: DataSpec) -> dict[str, int]:
    """Number of values of every part of an action, index 0 (unknown) included."""
    sizes = {task.name: 3 if task.kind == "binary" else len(task.boundaries) + 2 for task in spec.tasks}
    return sizes | {feedback.name: feedback.size for feedback in spec.feedback}


class ActionEmbedding(nn.Module):
    """ϕ: the sum of one embedding per action type (each task, each feedback), by its value. Index 0, unknown: zeros."""

    def __init__(self, spec: DataSpec, width: int):
        super().__init__()
        sizes = action_sizes(spec)
        self.names = tuple(sizes)
        self.tables = nn.ModuleDict(
            {module_key(name): nn.Embedding(size, width, padding_idx=0) for name, size in sizes.items()}
        )
        for table in self.tables.values():
            assert isinstance(table, nn.Embedding)
            nn.init.normal_(table.weight, std=TABLE_SCALE)
            with torch.no_grad():
                table.weight[0] = 0

    def forward(self, actions: FeatureColumns) -> Tensor:
        """(T, W)."""
        return torch.stack([self.tables[module_key(name)](actions[name]) for name in self.names]).sum(0)


MAX_COMBINATIONS = 2**16  # rows of the table of combinations; beyond them, combinations share rows (ours)


class CombinationEmbedding(nn.Module):
    """ϕ as a control: one embedding per combination of all action types' values. Row 0: all unknown."""

    def __init__(self, spec: DataSpec, width: int):
        super().__init__()
        self.sizes = action_sizes(spec)
        self.table = Table(min(math.prod(self.sizes.values()), MAX_COMBINATIONS), width)

    def forward(self, actions: FeatureColumns) -> Tensor:
        """(T, W)."""
        names, rows = list(self.sizes), self.table.size
        index = actions[names[0]] % (2**40)
        for name in names[1:]:
            index = (index * self.sizes[name] + actions[name]) % (2**40)
        if rows == MAX_COMBINATIONS:  # hashed, so that combinations that share a row are unrelated
            index = torch.where(index == 0, 0, 1 + (index * 2654435761 % (2**31)) % (rows - 1))
        vectors: Tensor = self.table(index)
        return vectors


class StatisticsEmbedding(nn.Module):
    """From the window statistics of a candidate, a dense vector, to the model's width, with one hidden layer."""

    def __init__(self, num_statistics: int, width: int):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(num_statistics, width), nn.LayerNorm(width), nn.GELU(), nn.Linear(width, width)
        )

    def forward(self, statistics_CS: Tensor) -> Tensor:
        """(C, W)."""
        embedded: Tensor = self.net(statistics_CS)
        return embedded
