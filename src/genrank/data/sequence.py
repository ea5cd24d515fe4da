"""The sequence builder: selects the history of a request, packs requests into samples, and builds batches.

One rule for training, evaluation and ranking. A request at time t sees the exposures of its user that were known
before t: the first `prefix` rows of the timeline, of which the window keeps those from `window_start(prefix)` on.
Requests with the same window start are packed over one shared history, as `grouping` says. All of it is vectorised
NumPy.

Shapes: N exposures, R requests, S samples (sequences), T history tokens, C candidates.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrank.batch import Candidates, History, LongHistory, OnHost, PackedBatch, PositionFeatures
from genrank.data.groups import changes
from genrank.data.hashing import hashed
from genrank.data.past_search import CategoryIndex, SearchConfig, latest_rows
from genrank.data.request_index import RequestIndex, pieces_of_users
from genrank.data.tables import FeatureTable
from genrank.data.timelines import Timelines, gather, offsets_of, ranges
from genrank.log_settings import SECONDS
from genrank.schema import DataSpec

Ints = NDArray[np.int64]
_PERIOD = re.compile(r"(\d+)([mhd])")


@dataclass(frozen=True, kw_only=True)
class SequenceConfig:
    """Settings of samples.

    grouping: "request", "user", "pointwise" (one exposure per sample), or a period such as "1h" or "1d".
    max_history: tokens of the window; 480 in the paper counts history and candidates.
    max_candidates: candidates of one sample above which its next request starts another sample (ours; bounds memory).
    loss_on_history: training samples predict the exposures of their history window too (the paper's control, which it
        found to lose more than 0.01 AUC). If several samples share history, a label is in the loss of each of them.
    labels_once: with loss_on_history each label is in the loss of only one of those samples, drawn once.
    """

    max_history: int = 256
    grouping: str = "user"
    max_candidates: int = 512
    loss_on_history: bool = False
    labels_once: bool = False

    def __post_init__(self) -> None:
        if self.max_history < 2:
            raise ValueError(f"max_history is {self.max_history}; it must be at least 2")
        if self.max_candidates < 1:
            raise ValueError(f"max_candidates is {self.max_candidates}; it must be at least 1")
        if self.labels_once and not self.loss_on_history:
            raise ValueError("labels_once needs loss_on_history, which is off; set sequence.loss_on_history=true too")
        if self.grouping not in ("request", "user", "pointwise") and not self.period:
            raise ValueError(f"grouping is {self.grouping!r}; choose request, user, pointwise or a period such as 1d")

    @property
    def period(self) -> int:
        """Seconds of a period grouping, 0 for the others."""
        match = _PERIOD.fullmatch(self.grouping)
        return int(match[1]) * SECONDS[match[2]] if match else 0


def window_start(num_past: Ints, max_history: int) -> Ints:
    """First history token that is kept when `num_past` are visible.

    Moves by half a window, so that one more event almost never shifts the window: between
    max_history // 2 + 1 and max_history tokens are kept.
    """
    step = max_history // 2
    over = np.maximum(num_past - max_history, 0)
    return -(-over // step) * step


@dataclass(frozen=True, kw_only=True)
class Samples:
    """S samples of packed requests. `candidates[candidate_offsets[s]:candidate_offsets[s + 1]]` are timeline rows."""

    user: Ints  # (S) index into Timelines.users
    start: Ints  # (S) first history row
    end: Ints  # (S) one past the last history row that any of its candidates sees
    time: Ints  # (S) time of its first request
    candidates: Ints  # (C) timeline rows
    candidate_offsets: Ints  # (S + 1)

    def __len__(self) -> int:
        return len(self.user)

    @property
    def num_history(self) -> Ints:
        """(S) history tokens."""
        return self.end - self.start

    @property
    def num_candidates(self) -> Ints:
        """(S) candidate tokens."""
        return np.diff(self.candidate_offsets)


class SequenceBuilder:
    """Cuts timelines into samples and packs samples into batches."""

    def __init__(
        self,
        config: SequenceConfig,
        spec: DataSpec,
        *,
        timelines: Timelines,
        items: FeatureTable,
        users: FeatureTable,
        search: SearchConfig | None = None,
    ):
        self.config, self.spec = config, spec
        self.timelines, self.items, self.users = timelines, items, users
        self.search = search or SearchConfig()
        self.user_of_row = np.repeat(np.arange(len(timelines.users), dtype=np.int32), np.diff(timelines.offsets))
        index = RequestIndex.of(timelines)
        self.num_requests, self.request_key, self.request_time = (
            index.num_requests,
            index.request_key,
            index.request_time,
        )
        self.visible_end, self.gap = index.visible_end, index.gap
        self.request_index, self.requests_before = index.request_index, index.requests_before
        if self.search.kind == "hard":
            categories = items.categories(search_feature(self.search, spec))
            self.categories = CategoryIndex(self.user_of_row, timelines.item, categories)

    def samples(self, *, begin: int | None = None, end: int | None = None) -> Samples:
        """The samples whose requests' times lie in [begin, end), in order of time, then user."""
        t = self.timelines
        chosen = t.target.copy()
        if begin is not None:
            chosen &= self.request_time >= begin
        if end is not None:
            chosen &= self.request_time < end
        rows = np.flatnonzero(chosen)
        bounds = np.searchsorted(rows, [t.offsets[end] for _, end in pieces_of_users(t.offsets)])
        return _in_order_of_time([self._cut(piece) for piece in np.split(rows, bounds[:-1])])

    def _cut(self, rows: Ints) -> Samples:
        """The samples of candidates of some users, in order of user, then window."""
        t, config = self.timelines, self.config
        user = self.user_of_row[rows]
        past = self.visible_end[rows] - t.offsets[user]
        window = window_start(past, config.max_history)
        order = np.lexsort((rows, self.request_key[rows], window, user))
        rows, user, window = rows[order], user[order], window[order]
        first = changes(user) | changes(window) | self._splits(rows)
        if config.grouping == "user" or config.period:
            first |= self._overfull(rows, first)
        return self._collect(rows, t.offsets[user] + window, first)

    def with_history(self, samples: Samples) -> Samples:
        """The samples with the exposures of their history windows as candidates too (`loss_on_history`)."""
        rows = ranges(samples.start, samples.num_history)
        sample = np.repeat(np.arange(len(samples)), samples.num_history)
        # An event with a request that began before the window can't be a candidate in it.
        kept = self.timelines.target[rows] & (self.visible_end[rows] >= samples.start[sample])
        rows = np.concatenate([samples.candidates, rows[kept]])
        sample = np.concatenate([np.repeat(np.arange(len(samples)), samples.num_candidates), sample[kept]])
        pairs = np.unique(np.stack([sample, rows]), axis=1)  # in order of sample, then row
        if self.config.labels_once:
            pairs = pairs[:, self._drawn(samples, pairs)]
        counts = np.bincount(pairs[0], minlength=len(samples))
        found = replace(samples, candidates=pairs[1], candidate_offsets=offsets_of(counts))
        return take(found, np.flatnonzero(counts))

    def _drawn(self, samples: Samples, pairs: Ints) -> Ints:
        """One of the pairs (2, P) of sample and row for each row, rising.

        The draw depends on the user's row, the place in the timeline and the sample's first candidate only, so that it
        is the same whichever other users are in memory.
        """
        t, sample, row = self.timelines, pairs[0], pairs[1]
        user = samples.user[sample]
        first = samples.candidates[samples.candidate_offsets[:-1]][sample]
        draw = hashed(t.users[user].astype(np.int64), row - t.offsets[user], first - t.offsets[user])
        order = np.lexsort((draw, row))
        return np.sort(order[changes(row[order])])

    def _splits(self, rows: Ints) -> NDArray[np.bool_]:
        if self.config.grouping == "pointwise":
            return np.ones(len(rows), dtype=bool)
        if self.config.grouping == "request":
            return changes(self.request_key[rows])
        if self.config.period:
            return changes(self.request_time[rows] // self.config.period)
        return np.zeros(len(rows), dtype=bool)

    def _overfull(self, rows: Ints, first: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Marks requests that would bring a sample over max_candidates."""
        group_start = np.maximum.accumulate(np.where(first, np.arange(len(rows)), 0))
        request_first = np.flatnonzero(changes(self.request_key[rows]) | first)
        marks = np.zeros(len(rows), dtype=bool)
        if not len(rows) or np.diff(np.append(np.flatnonzero(first), len(rows))).max() <= self.config.max_candidates:
            return marks
        request_end = np.append(request_first[1:], len(rows))
        current_group, current_start = -1, 0
        for begin, end in zip(request_first.tolist(), request_end.tolist(), strict=True):
            if group_start[begin] != current_group:
                current_group, current_start = group_start[begin], begin
            elif end - current_start > self.config.max_candidates:
                marks[begin], current_start = True, begin
        return marks

    def _collect(self, rows: Ints, start: Ints, first: NDArray[np.bool_]) -> Samples:
        opening = np.flatnonzero(first)
        lengths = np.diff(np.append(opening, len(rows)))
        # Within a sample the requests are in order of time, so its last candidate sees the most history.
        return Samples(
            user=self.user_of_row[rows[opening]].astype(np.int64),
            start=start[opening],
            end=self.visible_end[rows[opening + lengths - 1]].astype(np.int64) if len(rows) else opening,
            time=self.request_time[rows[opening]],
            candidates=rows,
            candidate_offsets=offsets_of(lengths),
        )

    def request(self, rows: Ints) -> Samples:
        """One sample for one request of one user, regardless of the grouping; used for ranking."""
        start = self.timelines.offsets[self.user_of_row[rows[:1]]]
        window = window_start(self.visible_end[rows[:1]] - start, self.config.max_history)
        first = np.zeros(len(rows), dtype=bool)
        first[0] = True
        return self._collect(rows, np.repeat(start + window, len(rows)), first)

    def batch(self, samples: Samples, *, known: Ints | None = None) -> PackedBatch:
        """The packed batch of the given samples, as NumPy arrays.

        known: (S) number of first events to leave out of every history, as the model has already encoded them.
        """
        t = self.timelines
        begin = samples.start if known is None else samples.start + known
        lengths = samples.end - begin
        rows = ranges(begin, lengths)
        sample_of_candidate = np.repeat(np.arange(len(samples)), samples.num_candidates)
        found, found_offsets = self._search(samples, sample_of_candidate)
        items, index = np.unique(
            np.concatenate([t.item[rows], t.item[samples.candidates], t.item[found]]).astype(np.int64),
            return_inverse=True,
        )
        of_history, of_candidates, of_found = np.split(index, np.cumsum([len(rows), len(samples.candidates)]))
        return PackedBatch(
            history=self._history(rows, offsets_of(lengths), np.repeat(samples.start, lengths), of_history),
            candidates=self._candidates(samples, sample_of_candidate, of_candidates, whole=known is None),
            long=LongHistory(
                offsets=found_offsets,
                item=of_found,
                time=t.time[found],
                actions=self._actions(found),
                lengths=OnHost(np.diff(found_offsets)),
            ),
            items=self.items.rows(items),
            users=self.users.rows(t.users[samples.user].astype(np.int64)),
        )

    def _history(self, rows: Ints, offsets: Ints, start: Ints, item: Ints) -> History:
        t = self.timelines
        stood = self._places(rows, start)
        following = np.minimum(rows + 1, t.offsets[self.user_of_row[rows] + 1] - 1)
        return History(
            offsets=offsets,
            item=item,
            time=t.time[rows],
            position=rows - start,
            # Where actions are known late, several requests may see an exposure before the next one is known.
            next_time=t.time[following] if t.known_at is None else t.known_at[rows],
            as_candidate=stood,
            actions=self._actions(rows),
            features={name: gather(column, rows) for name, column in t.features.items()},
            slot=t.position[rows].astype(np.int64),
            lengths=OnHost(np.diff(offsets)),
        )

    def _candidates(self, samples: Samples, sample: Ints, item: Ints, *, whole: bool) -> Candidates:
        t, rows = self.timelines, samples.candidates
        places = self._places(rows, samples.start[sample])
        in_window = (rows < samples.end[sample]) & whole  # a packed request is history for the requests after it
        history_start = offsets_of(samples.num_history)[:-1]
        in_history = np.where(in_window, history_start[sample] + rows - samples.start[sample], -1)
        return Candidates(
            offsets=samples.candidate_offsets,
            item=item,
            time=places.time,
            prefix=places.prefix,
            request=places.request,
            gap=places.gap,
            features={name: gather(column, rows) for name, column in t.features.items()},
            slot=t.position[rows].astype(np.int64),
            statistics=t.statistics[rows].astype(np.float32),
            exposure=rows,
            in_history=in_history,
            labels={name: _label(t.tasks[name][rows]) for name in t.tasks},
            censored={name: column[rows] for name, column in t.censored.items()},
            weight=None if t.weight is None else t.weight[rows],
            lengths=OnHost(samples.num_candidates),
            exposures=OnHost(rows),
            num_copies=int((in_history < 0).sum()),
        )

    def _places(self, rows: Ints, start: Ints) -> PositionFeatures:
        """Positions of exposures as candidates, in windows that begin at `start`."""
        return PositionFeatures(
            # An event at the window's edge may be of a request that began before the window: it sees no history.
            prefix=np.maximum(self.visible_end[rows] - start, 0),
            time=self.request_time[rows],
            request=np.maximum(self.request_index[rows].astype(np.int64) - self.requests_before[start], 0),
            gap=self.gap[rows],
        )

    def _search(self, samples: Samples, sample: Ints) -> tuple[Ints, Ints]:
        """Rows of the long history and their offsets: per candidate (hard), per sample (soft), or none."""
        t, search = self.timelines, self.search
        if search.kind == "hard":
            rows = samples.candidates
            item = t.item[rows].astype(np.int64)
            end = samples.start[sample]
            found, length = self.categories.latest(self.user_of_row[rows], item, end, search.num_retrieved)
            return found, offsets_of(length)
        if search.kind == "soft":
            return latest_rows(t.offsets[samples.user], samples.start, search.max_events)
        return np.zeros(0, np.int64), np.zeros(1, np.int64)

    def _actions(self, rows: Ints) -> dict[str, Ints]:
        return {name: self.action_index(name, rows) for name in (*self.timelines.tasks, *self.timelines.feedback)}

    def action_index(self, name: str, rows: Ints) -> Ints:
        """Index of a part of the action. 0 unknown; binary: 1 no, 2 yes; duration: 1 + bucket; feedback: as it is."""
        if name in self.timelines.feedback:
            return self.timelines.feedback[name][rows].astype(np.int64)
        task = next(task for task in self.spec.tasks if task.name == name)
        value: Any = self.timelines.tasks[name][rows]
        if task.kind == "binary":
            index: Ints = value.astype(np.int64) + 1
        else:
            bucket = np.searchsorted(np.asarray(task.boundaries), value, side="right") + 1
            index = np.where(np.isnan(value), 0, bucket)
        return index


def search_feature(search: SearchConfig, spec: DataSpec) -> str:
    """The item's feature for hard search. ValueError if the data has none of that name or kind."""
    known = [f.name for f in spec.of("item") if f.kind in ("categorical", "multi") and f.name != "item_id"]
    name = search.by or next(iter(known), "")
    if name in known:
        return name
    raise ValueError(
        f"search.kind=hard needs a categorical feature of the item{f' named {name!r}' if name else ''}; "
        f"the data has {', '.join(known) or 'none'}; set search.by to one, or search.kind=soft"
    )


def _in_order_of_time(parts: Sequence[Samples]) -> Samples:
    """All samples, in order of time, then user."""
    if not parts:
        none = np.zeros(0, np.int64)
        return Samples(user=none, start=none, end=none, time=none, candidates=none, candidate_offsets=offsets_of(none))
    whole = Samples(
        **{
            name: np.concatenate([getattr(part, name) for part in parts])
            for name in ("user", "start", "end", "time", "candidates")
        },
        candidate_offsets=offsets_of(np.concatenate([part.num_candidates for part in parts])),
    )
    return take(whole, np.lexsort((whole.user, whole.time)))


def take(samples: Samples, chosen: Ints) -> Samples:
    """The chosen samples, in that order."""
    lengths = samples.num_candidates[chosen]
    return Samples(
        user=samples.user[chosen],
        start=samples.start[chosen],
        end=samples.end[chosen],
        time=samples.time[chosen],
        candidates=samples.candidates[ranges(samples.candidate_offsets[:-1][chosen], lengths)],
        candidate_offsets=offsets_of(lengths),
    )


def _label(column: NDArray[Any]) -> NDArray[np.float32]:
    label = column.astype(np.float32)
    if column.dtype == np.int8:
        label[column < 0] = np.nan
    return label
