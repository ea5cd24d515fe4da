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

from genrank.errors import GenRankError, shown
from genrank.inference.ranking_engine import EngineRequest, RankingEngine
from genrank.inference.retrieval_engine import RetrievalEngine, RetrieveRequest

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
RETRIEVAL, VALUE = ":retrieval", ":value"  # columns of no task: a task may be called value


@dataclass(frozen=True, kw_only=True)
class StageRequest:
    """What somebody is to be shown now: all that any stage of a pipeline may ask.

    time: seconds since the epoch. context: see FeatureEncoder.encode. weights: of each task in the value. top_k: how
    many are wanted in the end, 0 for all. retrieval: which candidates to find; None where they are given.
    """

    user: str
    time: int
    context: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
    top_k: int = 0
    retrieval: RetrieveRequest | None = None


@dataclass(frozen=True, kw_only=True)
class SeenUser:
    """What the last model of a pipeline saw of a user. history_current: false where the store was out of reach."""

    known: bool = False
    history_current: bool = True
    num_history: int = 0  # events
    num_encoded: int = 0  # of these, those that had to be encoded now


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """C candidates of one request, in an order once a stage has made one. rows: of the item table, 0 unknown."""

    ids: Sequence[str]
    rows: Ints
    columns: Mapping[str, Floats] = field(default_factory=dict)  # (C) each
    user: SeenUser = SeenUser()
    seconds: Mapping[str, float] = field(default_factory=dict)  # what a stage took inside, of its batch

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, places: Ints) -> "Candidates":
        """The candidates at these places, in that order."""
        return replace(
            self,
            ids=[self.ids[place] for place in places.tolist()],
            rows=self.rows[places],
            columns={name: column[places] for name, column in self.columns.items()},
        )

    def with_columns(self, columns: Mapping[str, Floats]) -> "Candidates":
        """With further columns; one of the same name is replaced."""
        return replace(self, columns={**self.columns, **columns})


class Stage(Protocol):
    """Takes requests and the candidates of each, and returns the candidates of each, in the order of the requests."""

    name: str

    def run(self, requests: Sequence[StageRequest], candidates: Sequence[Candidates]) -> list[Candidates]:
        """The candidates that go on. At least one request."""


class RetrievalStage:
    """The best of the whole catalogue, in place of whatever candidates came."""

    name = "retrieval"

    def __init__(self, engine: RetrievalEngine):
        self.engine = engine

    def run(self, requests: Sequence[StageRequest], candidates: Sequence[Candidates]) -> list[Candidates]:
        """See Stage. Every request says in `retrieval` what to find."""
        wanted = [request.retrieval for request in requests if request.retrieval is not None]
        assert len(wanted) == len(requests)
        found = self.engine.retrieve(wanted)
        ids = self.engine.histories.catalogue.table.ids
        return [
            Candidates(
                ids=[str(ids[row]) for row in each.rows.tolist()],
                rows=each.rows,
                columns={RETRIEVAL: each.scores.astype(np.float64)},
                user=SeenUser(
                    known=each.user_known, history_current=each.history_current, num_history=each.num_history
                ),
                seconds=each.seconds,
            )
            for each in found
        ]


class RankingStage:
    """Scores of a ranking model for every candidate. Requests without candidates are left as they are."""

    name = "ranking"

    def __init__(self, engine: RankingEngine):
        self.engine = engine

    def run(self, requests: Sequence[StageRequest], candidates: Sequence[Candidates]) -> list[Candidates]:
        """See Stage."""
        filled = [number for number, each in enumerate(candidates) if len(each)]
        asked = [
            EngineRequest(
                user=requests[number].user,
                items=candidates[number].rows,
                time=requests[number].time,
                context=requests[number].context,
            )
            for number in filled
        ]
        scored = list(candidates)
        for number, found in zip(filled, self.engine.score(asked) if asked else [], strict=True):
            user = SeenUser(
                known=found.user_known,
                history_current=found.history_current,
                num_history=found.num_history,
                num_encoded=found.num_encoded,
            )
            scored[number] = replace(candidates[number].with_columns(found.scores), user=user)
        return scored


class OrderStage:
    """Falling order of value, the weighted sum of the tasks' scores; equal ones stay as they came. Then the first
    `top_k`.

    GenRankError where a score is no finite number: an order of them would mean nothing.
    """

    name = "order"

    def run(self, requests: Sequence[StageRequest], candidates: Sequence[Candidates]) -> list[Candidates]:
        """See Stage."""
        return [
            ordered(each, request.weights, request.top_k) for request, each in zip(requests, candidates, strict=True)
        ]


def ordered(candidates: Candidates, weights: Mapping[str, float], top_k: int = 0) -> Candidates:
    """The candidates in falling order of value with the column VALUE, the first `top_k` of them or all."""
    values = value_of(candidates.ids, candidates.columns, weights)
    order = np.argsort(-values, kind="stable")
    return candidates.with_columns({VALUE: values}).take(order[:top_k] if top_k else order)


def value_of(ids: Sequence[str], scores: Mapping[str, Floats], weights: Mapping[str, float]) -> Floats:
    """(C) the weighted sum of the candidates' scores. GenRankError where a score or a sum is no finite number."""
    values = np.zeros(len(ids))
    for task, weight in weights.items():
        values = values + weight * scores[task]
    for task, score in (*scores.items(), (VALUE, values)):
        odd = np.flatnonzero(~np.isfinite(score))
        if len(odd):
            raise GenRankError(
                f"the model's score ({task}) of item {shown(ids[odd[0]])} is {score[odd[0]]}; check the item's "
                "features, and train again with a lower learning rate if this is so for others"
            )
    return values
