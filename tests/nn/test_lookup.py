"""Models look rows up through one seam: a table that lies in pieces can stand where a whole one did."""

import pytest
import torch
from torch import Tensor, nn

from genrank.batch import Jagged, map_arrays
from genrank.nn.embeddings import Lookup, Table
from worlds import SPEC, builder, timelines
from zoo import config, ranker

NAMES = ("genrank", "combined-actions", "hstu", "sim-soft", "slot-and-clock", "din")


class InPieces(Lookup):
    """The rows of a table by turns in two pieces, as ranks would hold them."""

    def __init__(self, whole: Table):
        super().__init__()
        self.size, self.dim = whole.size, whole.dim
        self.even, self.odd = (nn.Parameter(whole.weight.detach()[first::2].clone()) for first in (0, 1))

    def forward(self, index_N: Tensor) -> Tensor:
        at = index_N // 2
        odd = self.odd[at.clamp_max(max(len(self.odd) - 1, 0))] if len(self.odd) else self.even[at]
        return torch.where((index_N % 2 == 0)[..., None], self.even[at.clamp_max(len(self.even) - 1)], odd)

    def pooled(self, values: Jagged, share_V: Tensor | None) -> Tensor:
        lengths = values.offsets.diff()
        row_V = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
        shares = 1 / lengths.clamp_min(1)[row_V] if share_V is None else share_V
        rows_VD = self(values.values) * shares[:, None].float()
        return rows_VD.new_zeros(len(lengths), self.dim).index_add(0, row_V, rows_VD)


def in_pieces(module: nn.Module) -> int:
    """Put tables in pieces in the place of whole ones; how many."""
    replaced = 0
    for name, child in module.named_children():
        if isinstance(child, Table):
            setattr(module, name, InPieces(child))
            replaced += 1
        else:
            replaced += in_pieces(child)
    return replaced


@pytest.mark.parametrize("name", NAMES)
def test_a_model_is_the_same_whatever_holds_its_tables(name: str) -> None:
    b = builder(timelines(lengths=[9, 0, 14], seed=3), max_history=8, search=config(name).search)
    batch = map_arrays(b.batch(b.samples()), torch.from_numpy)
    model = ranker(name, SPEC, max_history=8)
    whole = model(batch)
    assert in_pieces(model) > 3
    for task, logits in model(batch).items():
        torch.testing.assert_close(logits, whole[task], rtol=1e-5, atol=1e-6)
