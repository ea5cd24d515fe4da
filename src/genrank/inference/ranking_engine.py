"""The ranking engine: requests of several users in, scores out, over encoded histories that are cached.

A request becomes the last request of its user's timeline, and the sequence builder of training cuts it. The cache has a
user's encoded window with the stamps of its events. A later request finds how many of these events its window begins
with, cuts the state there, and encodes only later events. When the window moves (see data/sequence.py, `window_start`)
it is encoded again.

Shapes: R requests, C candidates of all requests.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genrank.batch import PackedBatch, map_arrays
from genrank.data.loader import in_one_block
from genrank.data.request import with_request
from genrank.data.sequence import Samples, SequenceBuilder, SequenceConfig, take
from genrank.data.timelines import Timelines
from genrank.inference.cache import ByteBudgetCache
from genrank.inference.cuda_graphs import scorer
from genrank.inference.histories import Histories, UserHistory
from genrank.inference.sizes import entry_bytes
from genrank.models.ranker import Ranker
from genrank.nn.devices import on_device
from genrank.nn.kv_cache import KVCache, join

Ints = NDArray[np.int64]
Statistics = Callable[[str, Ints, int], NDArray[np.float16]]  # user, (C) item rows, time -> (C, S)


@dataclass(frozen=True, kw_only=True)
class EngineRequest:
    """Candidates of one user at one time."""

    user: str
    items: Ints  # rows of the item table
    time: int  # seconds since the epoch
    context: Mapping[str, Any] = field(default_factory=dict)  # see FeatureEncoder.encode
    history: UserHistory | None = None  # of the user, from the engine's histories; None: read now


@dataclass(frozen=True, kw_only=True)
class Scored:
    """The answer to one request. scores: per task, (C of the request) probabilities or expected seconds."""

    scores: Mapping[str, NDArray[np.float64]]
    user_known: bool
    history_current: bool  # false: the store could not be reached, and events may be missing
    num_history: int  # events that the model saw
    num_encoded: int  # of these, those that had to be encoded now


@dataclass(frozen=True, kw_only=True)
class KeptHistory:
    """An encoded window: its events and the encoded state."""

    begin: int  # row of its first event in the user's timeline
    stamps: Ints  # (events, 5): their own, and their request's index and gap, which depend on events before the window
    state: KVCache


Cache = ByteBudgetCache[tuple[str, str], KeptHistory]  # (model version, user)


def history_cache(max_bytes: int) -> Cache:
    """A cache for one or several engines."""
    return ByteBudgetCache(max_bytes, size=entry_bytes)


class RankingEngine:
    """One model over the histories of its users. Not safe to use from several threads; the cache is."""

    def __init__(
        self,
        model: Ranker,
        sequence: SequenceConfig,
        *,
        version: str,
        histories: Histories,
        statistics: Statistics | None = None,
        cache: Cache | None = None,
        device: torch.device | str = "cpu",
        dtype: Literal["fp32", "bf16"] = "fp32",
        graphs: bool = True,
    ):
        """cache: None: every request's history is encoded. graphs: score by CUDA graphs if the device is CUDA."""
        self.model, self.version, self.device, self.dtype = model, version, torch.device(device), dtype
        self.sequence = replace(sequence, grouping="request", loss_on_history=False, labels_once=False)
        self.histories = histories
        self.statistics, self.cache = statistics, cache
        with on_device(self.device), self._precision():  # in which the attention backend is checked
            self._score = scorer(model, self.device, graphs=graphs)

    @torch.no_grad()
    def score(self, requests: Sequence[EngineRequest]) -> list[Scored]:
        """Scores of every request's candidates. At least one request, each with at least one candidate."""
        known = [request.history or self.histories.of(request.user) for request in requests]
        builder = self.histories.builder(
            [self._asked(*pair) for pair in zip(known, requests, strict=True)], self.sequence, self.model.config.search
        )
        samples = builder.samples()
        with on_device(self.device):
            with self._precision():
                batch, state, encoded = self._encode(builder, samples, known)
                logits = {name: value.float() for name, value in self._score(state, batch).items()}
            predictions = self.model.predict(logits, batch)
            columns = dict(zip(predictions, read(list(predictions.values())), strict=True))
        answers: list[Scored | None] = [None] * len(requests)
        for sample, number in enumerate(samples.user.tolist()):
            own = slice(int(samples.candidate_offsets[sample]), int(samples.candidate_offsets[sample + 1]))
            answers[number] = Scored(
                scores={task: column[own] for task, column in columns.items()},
                user_known=known[number].row > 0,
                history_current=known[number].current,
                num_history=int(samples.num_history[sample]),
                num_encoded=encoded[sample],
            )
        return [answer for answer in answers if answer is not None]

    def _asked(self, known: UserHistory, request: EngineRequest) -> Timelines:
        spec, count = self.histories.spec, len(request.items)
        statistics = np.zeros((count, len(spec.statistics)), np.float16)
        if self.statistics is not None and spec.statistics:
            statistics = self.statistics(request.user, request.items, request.time)
        return with_request(
            known.timeline,
            time=request.time,
            items=request.items,
            features=self.histories.context.encode(request.context, count),
            statistics=statistics,
        )

    def _encode(
        self, builder: SequenceBuilder, samples: Samples, known: Sequence[UserHistory]
    ) -> tuple[PackedBatch, Any, list[int]]:
        """The batch of the candidates, their histories' state, and how many events were encoded per sample."""
        if not self.model.extends_history:
            batch = self._batch(builder, samples)
            return batch, self.model.encode_history(batch), samples.num_history.tolist()
        states, encoded = [], []
        for sample in range(len(samples)):
            history = known[int(samples.user[sample])]
            state, count = self._state(builder, take(samples, np.array([sample])), history)
            states.append(state)
            encoded.append(count)
        return self._batch(builder, samples, known=samples.num_history), join(states), encoded

    def _state(self, builder: SequenceBuilder, sample: Samples, history: UserHistory) -> tuple[KVCache, int]:
        """The state of one sample's window, from the cache as far as possible, and the number of events encoded."""
        begin = int(sample.start[0] - builder.timelines.offsets[sample.user[0]])
        length = int(sample.num_history[0])
        rows = np.arange(sample.start[0], sample.end[0])
        requests = [builder.request_index[rows] - builder.requests_before[rows[:1]], builder.gap[rows]]
        stamps = np.column_stack([history.stamps[begin : begin + length], *requests])
        # Unknown users without events share one entry, so that invented names can't fill the cache.
        key = (self.version, history.user if length or history.row else "")
        kept = None if self.cache is None else self.cache.get(key)
        reused = 0 if kept is None or kept.begin != begin else _common(kept.stamps, stamps)
        if kept is not None and (reused or not (length or len(kept.stamps))):
            again = self.model.num_reencoded_events
            reused = reused if again == 0 else max(min(reused, len(kept.stamps) - again), 0)
            state = kept.state.first(reused)
            if reused < length:
                state = self.model.extend_history(state, self._batch(builder, sample, known=np.array([reused])))
        else:
            state = self.model.encode_history(self._batch(builder, sample)).owned()
        if self.cache is not None and (kept is None or reused < length):
            self.cache.put(key, KeptHistory(begin=begin, stamps=stamps, state=state))
        return state, length - reused

    def _batch(self, builder: SequenceBuilder, samples: Samples, known: Ints | None = None) -> PackedBatch:
        batch: PackedBatch = map_arrays(builder.batch(samples, known=known), torch.from_numpy)
        if self.device.type != "cpu":
            batch = in_one_block(batch, pin=self.device.type == "cuda")
        return batch.to(self.device)

    def _precision(self) -> AbstractContextManager[Any]:
        if self.dtype == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)


def read(columns: Sequence[Tensor]) -> list[NDArray[np.float64]]:
    """The (C) columns on the host, for which it waits once."""
    return list(torch.stack(list(columns)).double().cpu().numpy())


def _common(one: Ints, other: Ints) -> int:
    """How many events at the beginning are the same in both."""
    length = min(len(one), len(other))
    differs = np.flatnonzero((one[:length] != other[:length]).any(1))
    return int(differs[0]) if len(differs) else length
