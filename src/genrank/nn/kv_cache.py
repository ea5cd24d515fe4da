"""The KV cache of encoded histories: the keys and values that candidates attend to, how they are extended and cut.

Under a causal mask a token's keys and values don't depend on later tokens. So the state of a history's first events is
the first part of its state, and later events are added by computing their tokens only.

Shapes: B sequences, X context tokens, H heads, D channels of a head, W width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from genrank.nn.attention import Tokens
from genrank.nn.blocks import KeysValues
from genrank.nn.organization import per_token


@dataclass(frozen=True)
class KVCache:
    """Keys and values of B histories in every block, and the other tensors that scoring needs of the histories."""

    context: Tokens  # X tokens
    keys_values: tuple[KeysValues, ...]  # per block
    user_BW: Tensor | None  # the users' vectors
    num_prefix_tokens: int  # context tokens before the events of a sequence
    event_tokens: int  # context tokens of an event

    @property
    def num_events(self) -> Tensor:
        """(B) events of every history."""
        return (self.context.offsets.diff() - self.num_prefix_tokens) // self.event_tokens

    @property
    def num_bytes(self) -> int:
        """Memory of all tensors."""
        tensors = [self.context.offsets, self.context.position, self.context.time]
        tensors += [tensor for block in self.keys_values for tensor in block]
        tensors += [] if self.user_BW is None else [self.user_BW]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def first(self, num_events: int) -> "KVCache":
        """The state of a single history's first events, as views. ValueError for several histories or fewer events."""
        held = (len(self.context.position) - self.num_prefix_tokens) // self.event_tokens  # without reading the device
        if len(self.context.offsets) != 2 or num_events > held:
            raise ValueError(f"the first {num_events} events of a state with {self.num_events.tolist()}")
        kept = self.num_prefix_tokens + self.event_tokens * num_events
        return replace(
            self,
            context=Tokens(
                self.context.offsets.clamp_max(kept), self.context.position[:kept], self.context.time[:kept]
            ),
            keys_values=tuple(KeysValues(k[:kept], v[:kept]) for k, v in self.keys_values),
        )

    def owned(self) -> "KVCache":
        """The same with a copy of the context's tokens, which may be views of a batch's memory."""
        context = self.context
        return replace(self, context=Tokens(context.offsets.clone(), context.position.clone(), context.time.clone()))


class Merge:
    """Appends new tokens to the old ones of the same sequence."""

    def __init__(self, old_offsets: Tensor, new_offsets: Tensor, *, num_old: int, num_new: int):
        """num_old, num_new: numbers of tokens, so that they need not be read from the device."""
        self.offsets = old_offsets + new_offsets
        sequence_B = torch.arange(len(old_offsets) - 1, device=old_offsets.device)
        sides = ((old_offsets, num_old), (new_offsets, num_new))
        both = [per_token(sequence_B, offsets, count) for offsets, count in sides]
        self.order = None if len(sequence_B) == 1 else torch.argsort(torch.cat(both), stable=True)

    def __call__(self, old: Tensor, new: Tensor) -> Tensor:
        """(X, …) of both."""
        joined = torch.cat([old, new])
        return joined if self.order is None else joined[self.order]

    def tokens(self, old: Tokens, new: Tokens) -> Tokens:
        """The tokens of both."""
        return Tokens(self.offsets, self(old.position, new.position), self(old.time, new.time))

    def keys_values(self, old: KeysValues, new: KeysValues) -> KeysValues:
        """The keys and values of both."""
        return KeysValues(self(old.k_THD, new.k_THD), self(old.v_THD, new.v_THD))


def join(states: Sequence[KVCache]) -> KVCache:
    """One state of all the histories, in that order. All states must be of one model."""
    if len(states) == 1:
        return states[0]
    lengths = torch.cat([state.context.offsets.diff() for state in states])
    users = [state.user_BW for state in states if state.user_BW is not None]
    blocks = zip(*(state.keys_values for state in states), strict=True)
    return replace(
        states[0],
        context=Tokens(
            torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]),
            torch.cat([state.context.position for state in states]),
            torch.cat([state.context.time for state in states]),
        ),
        keys_values=tuple(
            KeysValues(torch.cat([own.k_THD for own in block]), torch.cat([own.v_THD for own in block]))
            for block in blocks
        ),
        user_BW=torch.cat(users) if users else None,
    )
