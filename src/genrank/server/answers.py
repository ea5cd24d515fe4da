"""The bodies of HTTP answers."""

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from genrank.inference.gen_ranker import RankedItem
from genrank.server.deployment import RANKING, rank_answer
from genrank.server.opened_index import RETRIEVAL, retrieve_answer, versions
from genrank.server.served_pipeline import PipelineOutcome

_ENCODER = msgspec.json.Encoder()


class RankedItemBody(Struct):
    """A ranked candidate. known: false if the item is in no table, so that its features are unknown."""

    item: str
    value: float
    scores: dict[str, float]
    known: bool


class RankAnswerBody(Struct, kw_only=True):
    """The ranked candidates, best first. `encoded` of the `history` events had to be encoded for this answer.

    history_current: false if the event store could not be reached, so that the newest events may be missing.
    clock_behind: seconds by which the service's clock, and so `time`, is behind the latest time seen; normally 0.
    """

    user: str
    user_known: bool
    history_current: bool
    time: int
    clock_behind: float
    history: int
    encoded: int
    model: str
    places: Sequence[RankedItemBody]
    waited_ms: float
    worked_ms: float


class RetrievedItemBody(Struct):
    """A retrieved item. score: a logit, comparable within the answer."""

    item: str
    score: float


class RetrieveAnswerBody(Struct, kw_only=True):
    """Items, best first; fewer than k if no more can be retrieved. Times in ms are those of the whole batch."""

    user: str
    user_known: bool
    history_current: bool
    time: int
    clock_behind: float
    history: int
    model: str
    index: str
    items: Sequence[RetrievedItemBody]
    waited_ms: float
    encode_ms: float
    search_ms: float
    rank_ms: float


class RecommendAnswerBody(Struct, kw_only=True):
    """The retrieved items in the ranker's order. ranking: null if nothing was retrieved."""

    retrieved: int
    retriever: str
    index: str
    retrieval_ms: float
    ranking: RankAnswerBody | None


class EventsAnswerBody(Struct, kw_only=True):
    """received: all events of the call; changed: those that were new or replaced an earlier one."""

    received: int
    changed: int


class ItemsAnswerBody(Struct, kw_only=True):
    """received: all items of the call; new: those that were not known before."""

    received: int
    new: int


class UserAnswerBody(Struct, kw_only=True):
    """A user's history as the model would see it now, newest last: items (empty: unknown), times, actions.

    current: false if the event store can't be reached, so that the newest events may be missing.
    """

    user: str
    known: bool
    current: bool
    exposures: int
    window: list[dict[str, Any]]


class ErrorBody(Struct, kw_only=True):
    """What was wrong and how to fix it."""

    error: str
    request_id: str


def written(body: Struct) -> bytes:
    """A body as JSON."""
    return _ENCODER.encode(body)


def ranked(outcome: PipelineOutcome) -> RankAnswerBody:
    """The body of a ranking, with the scores of the query's tasks; empty: of all tasks."""
    answer, tasks = rank_answer(outcome), frozenset(outcome.query.tasks)
    return RankAnswerBody(
        user=answer.user,
        user_known=answer.user_known,
        history_current=answer.history_current,
        time=answer.time,
        clock_behind=round(answer.clock_behind, 3),
        history=answer.num_history,
        encoded=answer.num_encoded,
        model=answer.model_version,
        places=[_place(place, tasks) for place in answer.places],
        waited_ms=_ms(answer.waited),
        worked_ms=_ms(answer.worked),
    )


def _place(place: RankedItem, tasks: frozenset[str]) -> RankedItemBody:
    scores = {task: score for task, score in place.scores.items() if task in tasks} if tasks else place.scores
    return RankedItemBody(place.item, place.value, scores, place.known)


def retrieved(outcome: PipelineOutcome) -> RetrieveAnswerBody:
    """The body of a retrieval."""
    found = retrieve_answer(outcome)
    return RetrieveAnswerBody(
        user=found.user,
        user_known=found.user_known,
        history_current=found.history_current,
        time=found.time,
        clock_behind=round(found.clock_behind, 3),
        history=found.num_history,
        model=found.model_version,
        index=found.index_version,
        items=[RetrievedItemBody(*pair) for pair in zip(found.items, found.scores, strict=True)],
        waited_ms=_ms(found.waited),
        **{f"{name}_ms": _ms(seconds) for name, seconds in found.seconds.items()},
    )


def recommended(outcome: PipelineOutcome) -> RecommendAnswerBody:
    """The body of a recommendation; without a ranking if no candidates were left for it."""
    report = outcome.reports[RETRIEVAL]
    retriever, index = versions(report)
    return RecommendAnswerBody(
        retrieved=report.stages[0].num_out,
        retriever=retriever,
        index=index,
        retrieval_ms=_ms(report.waited + sum(report.candidates.seconds.values())),
        ranking=ranked(outcome) if RANKING in outcome.reports else None,
    )


def _ms(seconds: float) -> float:
    return round(1e3 * seconds, 3)
