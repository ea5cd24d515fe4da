"""The transformer block: pre-norm, softmax attention, an optional attention gate, a feed-forward net.

A block is called for the history (context) and for the candidates apart: candidates attend to the history's keys and
values, which is also all that needs caching. Shapes: N tokens, W width, H heads, D = W / H.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from genrank.nn.attention import Attention


class KeysValues(NamedTuple):
    """What the history of one block leaves behind for those who attend to it."""

    k_THD: Tensor
    v_THD: Tensor


class TransformerBlock(nn.Module):
    """x + Attention(norm(x)), then x + FeedForward(norm(x))."""

    def __init__(self, width: int, num_heads: int, *, feedforward: int, dropout: float, gate: bool):
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.gate = nn.Linear(width, width) if gate else None
        self.out = nn.Linear(width, width, bias=False)
        self.feedforward_norm = nn.LayerNorm(width)
        self.feedforward = nn.Sequential(nn.Linear(width, feedforward), nn.GELU(), nn.Linear(feedforward, width))
        self.dropout = nn.Dropout(dropout)

    def keys_values(self, x_NW: Tensor) -> KeysValues:
        """Keys and values of context tokens: all that the last block needs of the history."""
        return self._keys_values(self.attention_norm(x_NW))

    def forward(self, x_NW: Tensor, attention: Attention, context: KeysValues | None) -> tuple[Tensor, KeysValues]:
        """New token vectors (N, W), and the keys and values of these tokens. `context` None: they are the context."""
        normed = self.attention_norm(x_NW)
        own = self._keys_values(normed)
        k_THD, v_THD = own if context is None else context
        q_NHD = self.query(normed).unflatten(-1, (self.num_heads, -1))
        attended = attention(q_NHD, k_THD, v_THD, own.k_THD, own.v_THD).flatten(-2)
        if self.gate is not None:
            attended = torch.sigmoid(self.gate(normed)) * attended
        x_NW = x_NW + self.dropout(self.out(attended))
        return x_NW + self.dropout(self.feedforward(self.feedforward_norm(x_NW))), own

    def _keys_values(self, normed_NW: Tensor) -> KeysValues:
        k, v = self.key_value(normed_NW).unflatten(-1, (2, self.num_heads, -1)).unbind(-3)
        return KeysValues(k, v)
