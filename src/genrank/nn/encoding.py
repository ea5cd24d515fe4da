"""Position and time: the three embeddings of GenRank's equation (1), arXiv 2505.04180, section 2.

    Ω_pe(i)                        index in the window; the candidates of a request share one
    Ω_ri(|{t_1 .. t_i}|)           requests so far
    Ω_rt(bucket(t_i - max t_j))    time since the previous request

Position and request index count from the start of the history window, which depends only on the number of the user's
events, so that a cached history stays valid. The paper doesn't give the buckets of time; ours are two per doubling,
beginning at one second.
"""

import torch
from torch import Tensor, nn

NUM_GAP_BUCKETS = 64  # two per doubling: the last one begins at 2^31 seconds, 68 years


def gap_bucket(gap: Tensor) -> Tensor:
    """Bucket of a gap in seconds: 0 where there is no previous request (gap below 0)."""
    bucket = (2 * torch.log2(1 + gap.clamp_min(0).double())).long() + 1
    return torch.where(gap < 0, 0, bucket.clamp_max(NUM_GAP_BUCKETS - 1))


class GenRankEncoding(nn.Module):
    """E_pe + E_ri + E_rt, or those of them that are switched on."""

    def __init__(self, num_positions: int, width: int, *, position: bool, request: bool, gap: bool):
        super().__init__()
        self.width = width
        sizes = (num_positions if position else 0, num_positions if request else 0, NUM_GAP_BUCKETS if gap else 0)
        self.position, self.request, self.gap = (nn.Embedding(size, width) if size else None for size in sizes)
        for table in self.children():
            assert isinstance(table, nn.Embedding)
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, position_N: Tensor, request_N: Tensor, gap_N: Tensor) -> Tensor:
        """(N, W)."""
        encoded = torch.zeros(1, self.width, device=position_N.device)
        if self.position is not None:
            encoded = encoded + self.position(position_N)
        if self.request is not None:
            encoded = encoded + self.request(request_N)
        if self.gap is not None:
            encoded = encoded + self.gap(gap_bucket(gap_N))
        return encoded


class ScaledInput(nn.Module):
    """HSTU's input (arXiv 2402.17152, research code): x √W + a learned absolute position, initially N(0, 1/W)."""

    def __init__(self, num_positions: int, width: int):
        super().__init__()
        self.scale = width**0.5
        self.position = nn.Embedding(num_positions, width)
        nn.init.normal_(self.position.weight, std=width**-0.5)

    def forward(self, x_NW: Tensor, position_N: Tensor) -> Tensor:
        """(N, W). position_N: positions of the tokens in their sequences, as queries."""
        placed: Tensor = self.scale * x_NW + self.position(position_N)
        return placed
