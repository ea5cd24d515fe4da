"""Stages of a pipeline: each takes requests with their candidates, and returns candidates with more columns, fewer rows
or another order.

    RetrievalStage   finds candidates in the whole catalogue      column RETRIEVAL, a logit
    RankingStage     scores them                                  a column per task, probabilities or expected seconds
    OrderStage       puts them in order of value, and cuts        column VALUE

A stage handles many requests at once, because engines do. Shapes: C candidates of one request.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from genrank.data.request import FeatureEncoder
from genrank.errors import GenRankError, shown
from genrank.inference.histories import Histories, UserHistory
from genrank.inference.ranking_engine import EngineRequest, RankingEngine
from genrank.inference.retrieval_engine import RetrievalEngine, RetrieveRequest

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
RETRIEVAL, VALUE = ":retrieval", ":value"  # columns of no task: a task may be called value


@dataclass(frozen=True, kw_only=True)
class StageRequest:
    """A request to a pipeline, with the inputs of all stages.

    time: seconds since the epoch. context: see FeatureEncoder.encode. weights: of each task in the value. top_k: how
    many candidates are returned, 0 for all. retrieval: which candidates to find; None if they are given.
    """

    user: str
    time: int
    context: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
    top_k: int = 0
    retrieval: RetrieveRequest | None = None


@dataclass(frozen=True, kw_only=True)
class SeenUser:
    """What the last model of a pipeline saw of a user. history_current: false if the store could not be reached."""

    known: bool = False
    history_current: bool = True
    num_history: int = 0  # events
    num_encoded: int = 0  # of these, those that had to be encoded now


@dataclass(frozen=True, kw_only=True)
class StageCandidates:
    """C candidates of one request, ordered if a stage has ordered them.

    rows: of the item table of the last stage that looked them up, 0: unknown. histories: the user's histories that
    stages have read, so that later stages see the same events even if the store has newer ones. origin: the place of
    each among the `num_origin` candidates that the request's context is for; None: no stage has moved them.
    """

    ids: Sequence[str]
    rows: Ints
    columns: Mapping[str, Floats] = field(default_factory=dict)  # (C) each
    user: SeenUser = SeenUser()
    seconds: Mapping[str, float] = field(default_factory=dict)  # times of the parts of a stage, for its batch
    histories: Mapping[Histories, UserHistory] = field(default_factory=dict)
    origin: Ints | None = None
    num_origin: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def given(cls, ids: Sequence[str], histories: Mapping[Histories, UserHistory] | None = None) -> "StageCandidates":
        """Items by id, before any stage."""
        return cls(ids=ids, rows=np.zeros(len(ids), np.int64), histories=histories or {})

    def history(self, histories: Histories, user: str) -> UserHistory:
        """The user's history as an earlier stage has read it, or as it is now."""
        return self.histories.get(histories) or histories.of(user)

    def take(self, places: Ints) -> "StageCandidates":
        """The candidates at these positions, in that order."""
        return replace(
            self,
            ids=[self.ids[place] for place in places.tolist()],
            rows=self.rows[places],
            columns={name: column[places] for name, column in self.columns.items()},
            origin=places if self.origin is None else self.origin[places],
            num_origin=len(self) if self.origin is None else self.num_origin,
        )

    def context(self, encoder: FeatureEncoder, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """The request's context for these candidates: lists with one value per candidate are cut to these."""
        return given if self.origin is None else encoder.of_some(given, self.origin, self.num_origin)

    def with_columns(self, columns: Mapping[str, Floats]) -> "StageCandidates":
        """The candidates with further columns; a column of the same name is replaced."""
        return replace(self, columns={**self.columns, **columns})


class Stage(Protocol):
    """Takes requests and the candidates of each, and returns the candidates of each, in the order of the requests."""

    name: str

    def run(self, requests: Sequence[StageRequest], candidates: Sequence[StageCandidates]) -> list[StageCandidates]:
        """The candidates after the stage. At least one request."""


class RetrievalStage:
    """The best items of the whole catalogue, instead of the given candidates."""

    name = "retrieval"

    def __init__(self, engine: RetrievalEngine):
        self.engine = engine

    def run(self, requests: Sequence[StageRequest], candidates: Sequence[StageCandidates]) -> list[StageCandidates]:
        """See Stage. Every request says in `retrieval` what to find."""
        known = self.engine.histories
        read = [each.history(known, request.user) for request, each in zip(requests, candidates, strict=True)]
        wanted = [
            replace(request.retrieval, history=history)
            for request, history in zip(requests, read, strict=True)
            if request.retrieval is not None
        ]
        assert len(wanted) == len(requests)
        found = self.engine.retrieve(wanted)
        return [
            StageCandidates(
                ids=known.catalogue.ids_of(each.rows),
                rows=each.rows,
                columns={RETRIEVAL: each.scores.astype(np.float64)},
                user=SeenUser(
                    known=each.user_known, history_current=each.history_current, num_history=each.num_history
                ),
                seconds=each.seconds,
                histories={**before.histories, known: history},
            )
            for each, before, history in zip(found, candidates, read, strict=True)
        ]


class RankingStage:
    """Scores of a ranking model for every candidate. Requests without candidates are left as they are."""

    name = "ranking"

    def __init__(self, engine: RankingEngine):
        self.engine = engine

    def run(self, requests: Sequence[StageRequest], candidates: Sequence[StageCandidates]) -> list[StageCandidates]:
        """See Stage."""
        known, after = self.engine.histories, list(candidates)
        filled = [number for number, each in enumerate(candidates) if len(each)]
        asked = [self._asked(requests[number], candidates[number]) for number in filled]
        scored = self.engine.score(asked) if asked else []
        for number, each, found in zip(filled, asked, scored, strict=True):
            before = candidates[number]
            user = SeenUser(
                known=found.user_known,
                history_current=found.history_current,
                num_history=found.num_history,
                num_encoded=found.num_encoded,
            )
            read = before.histories if each.history is None else {**before.histories, known: each.history}
            after[number] = replace(before.with_columns(found.scores), rows=each.items, user=user, histories=read)
        return after

    def _asked(self, request: StageRequest, candidates: StageCandidates) -> EngineRequest:
        """Items are looked up by id: an earlier stage may have another item table."""
        known = self.engine.histories
        return EngineRequest(
            user=request.user,
            items=known.catalogue.find(candidates.ids),
            time=request.time,
            context=candidates.context(known.context, request.context),
            history=candidates.history(known, request.user),
        )


class OrderStage:
    """Falling order of value, the weighted sum of the tasks' scores; equal ones keep their order. Then the first
    `top_k`.

    GenRankError if a score is not finite, because an order of such scores has no meaning.
    """

    name = "order"

    def run(self, requests: Sequence[StageRequest], candidates: Sequence[StageCandidates]) -> list[StageCandidates]:
        """See Stage."""
        return [
            ordered(each, request.weights, request.top_k) for request, each in zip(requests, candidates, strict=True)
        ]


def ordered(candidates: StageCandidates, weights: Mapping[str, float], top_k: int = 0) -> StageCandidates:
    """The candidates in falling order of value with the column VALUE, the first `top_k` of them or all."""
    scores = {name: column for name, column in candidates.columns.items() if name not in (RETRIEVAL, VALUE)}
    values = value_of(candidates.ids, scores, weights)
    order = np.argsort(-values, kind="stable")
    return candidates.with_columns({VALUE: values}).take(order[:top_k] if top_k else order)


def value_of(ids: Sequence[str], scores: Mapping[str, Floats], weights: Mapping[str, float]) -> Floats:
    """(C) the weighted sum of the candidates' scores. GenRankError if a score or a sum is not finite."""
    values = np.zeros(len(ids))
    for task, weight in weights.items():
        values = values + weight * scores[task]
    for task, score in (*scores.items(), ("value", values)):
        odd = np.flatnonzero(~np.isfinite(score))
        if len(odd):
            raise GenRankError(
                f"the model's score ({task}) of item {shown(ids[odd[0]])} is {score[odd[0]]}; check the item's "
                "features, and train again with a lower learning rate if other items have such scores too"
            )
    return values
