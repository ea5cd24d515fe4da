"""The batch that goes from the sequence builder to a model: jagged, packed, the same in training and serving.

A sequence is one user's history window and the candidates of one or more of the user's requests. A batch holds B
sequences; their tokens stand one after another, `offsets` says where each sequence begins. Shapes:

    B sequences    T history events    C candidates    I distinct items    E long-history events

Tensors are torch's, except between the sequence builder and the loader, where they are NumPy's; this module imports
neither. Times are int64 seconds since the epoch, UTC.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

Array = Any  # np.ndarray or torch.Tensor


@dataclass(frozen=True)
class Jagged:
    """Rows of unequal length: row i is `values[offsets[i]:offsets[i + 1]]`."""

    values: Array
    offsets: Array  # int64, one more than there are rows
    weights: Array | None = None  # float32, one for each value; None: all alike


@dataclass(frozen=True)
class OnHost:
    """Numbers that stay with the host wherever the batch goes: what it has to know without asking a device."""

    values: Any  # np.ndarray of int64

    @property
    def most(self) -> int:
        """The largest, 0 where there is none."""
        return int(self.values.max(initial=0))


# name -> int64 indices per row, Jagged int64 indices (multi-valued), or float32 rows (frozen embedding)
FeatureColumns = Mapping[str, Any]


@dataclass(frozen=True)
class PositionFeatures:
    """Where exposures stand when they are candidates: what is known of a request before it is answered. (N) int64."""

    prefix: Array  # how many history events of its sequence the request sees
    time: Array  # seconds, the request's time
    request: Array  # requests of the window that it knows of; the one that the window begins within counts
    gap: Array  # seconds since the latest request that it knows of, -1 where there is none


@dataclass(frozen=True)
class History:
    """Past exposures with their actions, in the order in which they became known."""

    offsets: Array  # (B + 1) int64
    item: Array  # (T) int64, row of `PackedBatch.items`
    time: Array  # (T) int64 seconds
    position: Array  # (T) int64, index in the window, from 0
    next_time: (
        Array  # (T) int64 seconds, of the user's next exposure: at most the time of a request that sees this one.
    )
    #                   Where actions are known later than their exposure, this one's own known time
    as_candidate: PositionFeatures  # (T) what it had when it was a candidate itself: its request's time, index, gap
    actions: Mapping[str, Array]  # (T) int64 per task and feedback: see data/sequence.py, `action_index`
    features: FeatureColumns  # of the exposure
    slot: Array  # (T) int64, slot in the feed, -1 unknown
    lengths: OnHost | None = None  # (B) events of every sequence, as in `offsets`; None: not counted on the host


@dataclass(frozen=True)
class Candidates:
    """Exposures to score."""

    offsets: Array  # (B + 1) int64
    item: Array  # (C) int64, row of `PackedBatch.items`
    time: Array  # (C) int64, the request's time
    prefix: Array  # (C) int64, how many history tokens of its sequence the candidate may see
    request: Array  # (C) int64, as in PositionFeatures
    gap: Array  # (C) int64, as in PositionFeatures
    features: FeatureColumns  # of the exposure
    slot: Array  # (C) int64, slot in the feed, -1 unknown; models look at it in training only
    statistics: Array  # (C, S) float32 window statistics at the request's time
    exposure: Array  # (C) int64, row of the exposure in the timelines
    in_history: Array  # (C) int64, which history event is this very exposure, -1 where none is
    labels: Mapping[str, Array]  # (C) float32 per task, NaN where unknown; empty when serving
    censored: Mapping[str, Array]  # (C) bool per duration task
    weight: Array = None  # (C) float32, how many exposures each counts for; None: one
    lengths: OnHost | None = None  # (B) candidates of every sequence, as in `offsets`; None: not counted on the host
    exposures: OnHost | None = None  # (C) as `exposure`
    num_copies: int | None = None  # how many have `in_history` -1; None: not counted on the host


@dataclass(frozen=True)
class LongHistory:
    """Events before the window, in the order in which they became known.

    Of every candidate (hard search) or of every sequence (soft).
    """

    offsets: Array  # (C + 1) or (B + 1) int64; one zero where there is no search
    item: Array  # (E) int64, row of `PackedBatch.items`
    time: Array  # (E) int64 seconds
    actions: Mapping[str, Array]  # (E) as in History
    lengths: OnHost | None = None  # (C) or (B), as in `offsets`; None: not counted on the host


@dataclass(frozen=True)
class PackedBatch:
    """B sequences. `items` has one row per distinct item of the batch, so that each is embedded once."""

    history: History
    candidates: Candidates
    long: LongHistory
    items: FeatureColumns  # (I)
    users: FeatureColumns  # (B)
    block: Array | None = None  # uint8: the bytes that the tensors are views of, so that one copy moves them all

    def to(self, device: Any) -> "PackedBatch":
        """The batch with its torch tensors on `device`."""
        source: Any = self.block
        block: Any = None if source is None else source.to(device, non_blocking=True)

        def moved(tensor: Array) -> Array:
            if source is None or tensor.untyped_storage().data_ptr() != source.untyped_storage().data_ptr():
                return tensor.to(device, non_blocking=True)
            size, begin = tensor.element_size(), tensor.storage_offset() * tensor.element_size()
            return block[begin : begin + size * tensor.numel()].view(tensor.dtype).view(tensor.shape)

        batch: PackedBatch = _map(replace(self, block=None), moved)
        return batch


def sent(tensor: Any, device: Any) -> Any:
    """A torch tensor of the host on `device`, without waiting for it: CUDA copies from pinned memory as it computes."""
    if device.type == "cuda" and tensor.device.type == "cpu" and not tensor.is_pinned():
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def map_arrays(part: Any, function: Callable[[Array], Array]) -> Any:
    """`part` (a batch or any piece of one) with `function` applied to every array in it; what is `OnHost` stays."""
    return _map(part, function)


def _map(part: Any, function: Callable[[Array], Array]) -> Any:
    if part is None or isinstance(part, OnHost | int):
        return part
    if is_dataclass(part) and not isinstance(part, type):
        return replace(part, **{f.name: _map(getattr(part, f.name), function) for f in fields(part)})
    if isinstance(part, Mapping):
        return {name: _map(value, function) for name, value in part.items()}
    return function(part)
