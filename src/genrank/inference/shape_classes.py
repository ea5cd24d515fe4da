"""Shape classes: requests of about the same size are padded to one size, for which a CUDA graph is captured once.

The padding is one more sequence, the last one: it has the surplus candidates, which see none of its context, and the
surplus context, which no candidate sees. A candidate sees only its own sequence, so no score changes.

Shapes: B sequences, C candidates, X context tokens.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from genrank.models.score_inputs import Rows, ScoreInputs

LEAST = 16  # rows: sizes are multiples of it


def rounded(count: int) -> int:
    """The size of the class that holds `count` rows: the surplus is at most the larger of 15 rows and a quarter.

    Up to 64 in steps of 16, from there on four steps per doubling.
    """
    step: int = max(LEAST, 2 ** (max(count - 1, 1).bit_length() - 1) // 4)
    return max(-(-count // step), 1) * step


class ShapeClass(NamedTuple):
    """The sizes that inputs are padded to, and the types that the kernels depend on."""

    num_sequences: int  # a power of two; an empty sequence costs hardly anything
    num_candidates: int
    num_context: int
    kinds: tuple[tuple[Rows, torch.dtype, torch.Size], ...]  # of every tensor: its type and the shape of a row

    @classmethod
    def of(cls, inputs: ScoreInputs) -> "ShapeClass":
        """The class of some inputs."""
        num_sequences = len(inputs.offsets) - 1
        return cls(
            num_sequences=1 << (num_sequences - 1).bit_length(),
            num_candidates=rounded(len(inputs.prefix_C)),
            num_context=rounded(len(inputs.context.position)),
            kinds=tuple((rows, tensor.dtype, tensor.shape[1:]) for rows, tensor in _tensors(inputs)),
        )

    @property
    def num_bytes(self) -> int:
        """Bytes of inputs of this size."""
        return sum(self.size(rows) * dtype.itemsize * shape.numel() for rows, dtype, shape in self.kinds)

    def size(self, rows: Rows) -> int:
        """Rows of a tensor: offsets have one per sequence, including the padding's, and one more."""
        sizes = {"offsets": self.num_sequences + 2, "candidates": self.num_candidates, "context": self.num_context}
        return sizes[rows]


class StaticInputs:
    """Inputs of one class in memory whose address never changes."""

    def __init__(self, like: ScoreInputs, shape: ShapeClass):
        """like: any inputs of the class."""
        self.shape = shape
        self.inputs = like.map(lambda rows, tensor: tensor.new_zeros(shape.size(rows), *tensor.shape[1:]))
        self.inputs.offsets[-1:].fill_(shape.num_candidates)
        self.inputs.context.offsets[-1:].fill_(shape.num_context)
        self._tensors = _tensors(self.inputs)

    def fill(self, inputs: ScoreInputs) -> None:
        """Copy other inputs of the class here. Surplus rows keep their earlier content, which is not used."""
        for (_, target), (_, source) in zip(self._tensors, _tensors(inputs), strict=True):
            target[: len(source)].copy_(source)
        num_candidates, num_context = len(inputs.prefix_C), len(inputs.context.position)
        self.inputs.prefix_C[num_candidates:].zero_()  # except this: surplus candidates must see nothing
        ends = ((self.inputs.offsets, num_candidates), (self.inputs.context.offsets, num_context))
        for offsets, end in ends:
            offsets[len(inputs.offsets) : -1].fill_(end)  # empty sequences, then that of the surplus


def _tensors(inputs: ScoreInputs) -> list[tuple[Rows, Tensor]]:
    found: list[tuple[Rows, Tensor]] = []

    def take(rows: Rows, tensor: Tensor) -> Tensor:
        found.append((rows, tensor))
        return tensor

    inputs.map(take)
    return found
