"""The pipeline behind /v1/recommend: retrieval, ranking and order, each stage behind the queue of its service.

Requests of many callers share the batches of both queues, and no retrieval waits for a ranking, as it would in one
pipeline. The stages are those of inference/stages.py, so the answer is that of a Pipeline of them.
"""

import asyncio
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from genrank.server.core import RankingService
from genrank.server.deployment import RankAnswer, RankRequest
from genrank.server.retrieval_service import RetrievalQuery, RetrievalService, RetrieveAnswer


@dataclass(frozen=True, kw_only=True)
class RecommendQuery:
    """A request for a recommendation: which candidates to find, and how to rank them. See RankRequest."""

    retrieval: RetrievalQuery
    context: Mapping[str, Any] = field(default_factory=dict)
    tasks: tuple[str, ...] = ()
    value: Mapping[str, float] | str = ""
    top_k: int = 0

    def ranking(self, found: RetrieveAnswer) -> RankRequest:
        """The request to rank what was retrieved, at the time of the retrieval and with the events that it saw."""
        return RankRequest(
            user=self.retrieval.user,
            candidates=found.items,
            time=found.time,
            context=self.context,
            tasks=self.tasks,
            value=self.value,
            top_k=self.top_k,
            histories=found.histories,
        )


@dataclass(frozen=True, kw_only=True)
class RecommendAnswer:
    """The answers of both stages. ranking: None if nothing was found."""

    retrieval: RetrieveAnswer
    ranking: RankAnswer | None


class Recommender:
    """Both services one after the other. Safe to use from several threads."""

    def __init__(self, retrieval: RetrievalService, ranking: RankingService):
        self.retrieval, self.ranking = retrieval, ranking

    @property
    def expected_wait(self) -> float:
        """Seconds that a recommendation would wait now in the longer of both queues."""
        return max(self.retrieval.expected_wait, self.ranking.expected_wait)

    def begin(self, query: RecommendQuery) -> "Future[RetrieveAnswer]":
        """The future candidates. Raises RequestError for a bad query, Overloaded if there is no time for it."""
        return self.retrieval.retrieve(query.retrieval)

    async def finish(self, query: RecommendQuery, finding: "Future[RetrieveAnswer]") -> RecommendAnswer:
        """The answer, once the candidates are there. Raises RequestError if they can't be ranked, Overloaded."""
        found = await asyncio.wrap_future(finding)
        ranked = None
        if found.items:
            ranked = await asyncio.wrap_future(await asyncio.to_thread(self.ranking.rank, query.ranking(found)))
        return RecommendAnswer(retrieval=found, ranking=ranked)
