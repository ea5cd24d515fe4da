"""Blocks: the transformer's and HSTU's, with one interface, so that either works with any organization and encoding.

A block is called separately for the history (context) and for the candidates: candidates attend to the history's keys
and values, and only these need caching. Shapes: N tokens, W width, H heads, D = W / H.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genrank.nn.attention import TIME_BUCKETS, Attention, LearnedBias
from genrank.nn.dropout import Dropout


class KeysValues(NamedTuple):
    """Keys and values of a history in one block, to which candidates and later events attend."""

    k_THD: Tensor
    v_THD: Tensor


class RelativeBias(nn.Module):
    """HSTU's learned relative bias of one layer (arXiv 2402.17152, research code), initialized with N(0, 0.02)."""

    def __init__(self, num_positions: int):
        super().__init__()
        self.position = nn.Parameter(torch.randn(num_positions) * 0.02)
        self.time = nn.Parameter(torch.randn(TIME_BUCKETS) * 0.02)

    def forward(self) -> LearnedBias:
        """The tables."""
        return LearnedBias(self.position, self.time)


class HeadNorm(nn.Module):
    """Each head's vector scaled to RMS 1, times a learned scale: nn.RMSNorm in fp32 for every input type."""

    def __init__(self, channels: int):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels))

    def forward(self, x_NHD: Tensor) -> Tensor:
        """(N, H, D)."""
        wide = x_NHD.float()
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)
        return (normed * self.scale).to(x_NHD.dtype)


class TransformerBlock(nn.Module):
    """x + Attention(norm(x)), then x + FeedForward(norm(x)), with softmax attention.

    gate: multiply the attention's output by a sigmoid of the block's input. qk_norm: queries and keys are scaled to RMS
    1 per head, then by a learned factor. relative: the learned bias, or None.
    """

    weighting = "softmax"

    def __init__(
        self,
        width: int,
        num_heads: int,
        *,
        feedforward: int,
        dropout: float,
        gate: bool,
        qk_norm: bool = False,
        relative: RelativeBias | None = None,
    ):
        super().__init__()
        self.num_heads, self.relative = num_heads, relative
        self.attention_norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.query_norm, self.key_norm = (HeadNorm(width // num_heads) if qk_norm else None for _ in range(2))
        self.gate = nn.Linear(width, width) if gate else None
        self.out = nn.Linear(width, width, bias=False)
        self.feedforward_norm = nn.LayerNorm(width)
        self.feedforward = nn.Sequential(nn.Linear(width, feedforward), nn.GELU(), nn.Linear(feedforward, width))
        self.dropout = Dropout(dropout)

    def keys_values(self, x_NW: Tensor) -> KeysValues:
        """Keys and values of context tokens: the last block needs only these from the history."""
        return self._keys_values(self.attention_norm(x_NW))

    def forward(self, x_NW: Tensor, attention: Attention, context: KeysValues | None) -> tuple[Tensor, KeysValues]:
        """New token vectors (N, W), and the keys and values of these tokens. `context` None: they are the context."""
        normed = self.attention_norm(x_NW)
        own = self._keys_values(normed)
        k_THD, v_THD = own if context is None else context
        q_NHD = self.query(normed).unflatten(-1, (self.num_heads, -1))
        if self.query_norm is not None:
            q_NHD = self.query_norm(q_NHD)
        learned = self.relative() if self.relative is not None else None
        attended = attention(q_NHD, k_THD, v_THD, own.k_THD, own.v_THD, learned).flatten(-2)
        if self.gate is not None:
            attended = torch.sigmoid(self.gate(normed)) * attended
        x_NW = x_NW + self.dropout(self.out(attended))
        return x_NW + self.dropout(self.feedforward(self.feedforward_norm(x_NW))), own

    def _keys_values(self, normed_NW: Tensor) -> KeysValues:
        k, v = self.key_value(normed_NW).unflatten(-1, (2, self.num_heads, -1)).unbind(-3)
        return KeysValues(k if self.key_norm is None else self.key_norm(k), v)


class HSTUBlock(nn.Module):
    """HSTU's layer (arXiv 2402.17152, section 3, and its research code):

    U, V, Q, K = split(SiLU(norm(x) W)),    y = W_o dropout(U ⊙ norm(A V)) + x

    with norms without affine parameters, A the pointwise SiLU attention, and no feed-forward net. start: the initial
    weights, `official` as in that code (W with deviation 0.02, W_o Xavier), `uniform` PyTorch's, within ±1/√W.
    """

    weighting = "silu"

    def __init__(
        self,
        width: int,
        num_heads: int,
        *,
        dropout: float,
        start: Literal["official", "uniform"] = "uniform",
        relative: RelativeBias | None = None,
    ):
        super().__init__()
        self.width, self.num_heads, self.relative = width, num_heads, relative
        self.gate_query = nn.Linear(width, 2 * width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width)
        self.dropout = Dropout(dropout)
        if start == "official":
            for layer in (self.gate_query, self.key_value):
                nn.init.normal_(layer.weight, std=0.02)
            nn.init.xavier_uniform_(self.out.weight)

    def keys_values(self, x_NW: Tensor) -> KeysValues:
        """See TransformerBlock."""
        return self._keys_values(self._norm(x_NW))

    def forward(self, x_NW: Tensor, attention: Attention, context: KeysValues | None) -> tuple[Tensor, KeysValues]:
        """See TransformerBlock."""
        normed = self._norm(x_NW)
        own = self._keys_values(normed)
        k_THD, v_THD = own if context is None else context
        gate_NW, query_NW = torch.split(F.silu(self.gate_query(normed)), self.width, dim=-1)
        learned = self.relative() if self.relative is not None else None
        q_NHD = query_NW.view(len(query_NW), self.num_heads, self.width // self.num_heads)
        attended = attention(q_NHD, k_THD, v_THD, own.k_THD, own.v_THD, learned).flatten(-2)
        return x_NW + self.out(self.dropout(gate_NW * self._norm(attended))), own

    def _norm(self, x_NW: Tensor) -> Tensor:
        return F.layer_norm(x_NW, (self.width,), eps=1e-6)

    def _keys_values(self, normed_NW: Tensor) -> KeysValues:
        k, v = (
            F.silu(self.key_value(normed_NW))
            .view(len(normed_NW), 2, self.num_heads, self.width // self.num_heads)
            .unbind(1)
        )
        return KeysValues(k, v)


Block = TransformerBlock | HSTUBlock
