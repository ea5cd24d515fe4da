"""A task's tower, and PPNet's gates, which make its layers depend on user and item.

PPNet (PEPNet, arXiv 2302.01115): before every layer of a task's tower, its input h is multiplied by

    γ · σ(W₂ ReLU(W₁ [prior; stop-gradient(x)])),   γ = 2,   x the tower's input, prior the ids' vectors.

Shapes: C candidates, P width of the prior, W width of the tower's input, H width of a layer's input.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genrank.nn.dropout import Dropout

GATE_SCALE = 0.01  # standard deviation of the initial W₂: gates start near 1, as if there were none; ours


class PriorGate(nn.Module):
    """The gate of one layer, 0 to 2 per channel."""

    def __init__(self, *, prior: int, width: int, size: int):
        super().__init__()
        self.hidden, self.out = nn.Linear(prior + width, size), nn.Linear(size, size)
        nn.init.normal_(self.out.weight, std=GATE_SCALE)
        nn.init.zeros_(self.out.bias)

    def forward(self, prior_CP: Tensor, x_CW: Tensor) -> Tensor:
        """(C, H). No gradient reaches x through the gate."""
        hidden_CH = F.relu(self.hidden(torch.cat([prior_CP, x_CW.detach()], -1)))
        return 2 * torch.sigmoid(self.out(hidden_CH))


class Tower(nn.Module):
    """Linear-GELU-dropout layers and a last linear one to the logits; gated where `prior` is above 0."""

    def __init__(self, *, width: int, tower: int, num_layers: int, num_logits: int, prior: int, dropout: float):
        super().__init__()
        sizes = [width] + [tower] * num_layers
        self.hidden = nn.ModuleList(
            nn.Sequential(nn.Linear(size, tower), nn.GELU(), Dropout(dropout)) for size in sizes[:-1]
        )
        self.out = nn.Linear(tower, num_logits)
        self.gates = nn.ModuleList(PriorGate(prior=prior, width=width, size=size) for size in sizes if prior > 0)

    def forward(self, x_CW: Tensor, prior_CP: Tensor | None) -> Tensor:
        """(C, logits). Raises ValueError if a gated tower gets no prior."""
        if self.gates and prior_CP is None:
            raise ValueError("ppnet=true needs the prior's vectors, and there are none; give prior_CP")
        h_CH = x_CW
        for index, layer in enumerate([*self.hidden, self.out]):
            if self.gates:
                h_CH = h_CH * self.gates[index](prior_CP, x_CW)
            h_CH = layer(h_CH)
        return h_CH
