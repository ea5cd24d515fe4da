"""Feature crosses: DCN-v2 (arXiv 2008.13535), with the low-rank matrices of its section 4.

x_{l+1} = x_0 ⊙ (U_l V_lᵀ x_l + b_l) + x_l
"""

from torch import Tensor, nn


class CrossNetwork(nn.Module):
    """Explicit products of features, one degree more with every layer."""

    def __init__(self, width: int, *, num_layers: int, rank: int):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(width, rank, bias=False), nn.Linear(rank, width)) for _ in range(num_layers)
        )

    def forward(self, x_CW: Tensor) -> Tensor:
        """(C, W)."""
        crossed = x_CW
        for layer in self.layers:
            crossed = x_CW * layer(crossed) + crossed
        return crossed
