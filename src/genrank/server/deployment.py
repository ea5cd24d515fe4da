"""One model ready to rank, and the answer of a pipeline with it."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from genrank.artifacts.bundle import Bundle
from genrank.errors import RequestError, shown
from genrank.inference.gen_ranker import RankedItem, check_candidates, check_value, ranked_items
from genrank.inference.ranking_engine import Cache, EngineRequest, RankingEngine
from genrank.inference.serving_context import ServingContext
from genrank.inference.stages import RankingStage, StageCandidates, StageRequest
from genrank.nn.devices import device_named, precision_on
from genrank.server.query import PipelineQuery
from genrank.server.served_pipeline import PipelineOutcome
from genrank.server.service_options import ServiceOptions

RANKING = RankingStage.name  # of its queue, too
WARM_USERS = 8


@dataclass(frozen=True, kw_only=True)
class RankAnswer:
    """Candidates in falling order of value, and how they were computed. Times in seconds."""

    user: str
    user_known: bool
    history_current: bool  # false: the store could not be reached, and events may be missing
    time: int
    num_history: int
    num_encoded: int
    places: tuple[RankedItem, ...]
    model_version: str
    waited: float
    worked: float
    clock_behind: float = 0.0  # see Clock.behind; 0 if the request has a time


class Deployment:
    """One model ready to rank: its users and items, its engine, and the stage that scores with it."""

    def __init__(self, bundle: Bundle, context: ServingContext, *, cache: Cache, options: ServiceOptions):
        """Raises BundleError for a damaged bundle, RequestError for a value formula with tasks that it doesn't have."""
        self.bundle, self.spec, self.context, self.options = bundle, bundle.manifest.spec, context, options
        for weights in (bundle.config.value, *options.values.values()):
            check_value(weights, self.spec)
        device = device_named(options.device)
        self.engine = RankingEngine(
            bundle.model(device),
            bundle.config.sequence,
            version=bundle.version,
            histories=context.histories,
            statistics=None if context.statistics is None else context.statistics.answers,
            cache=cache,
            device=device,
            dtype=precision_on(device, options.precision),
            graphs=options.cuda_graphs,
        )
        self.stage = RankingStage(self.engine)
        self.tasks = tuple(task.name for task in self.spec.tasks)

    def request(self, query: PipelineQuery, candidates: StageCandidates, *, time: int) -> StageRequest:
        """The request to this model's stage, with its features and value formula; see ServedModel."""
        ids, encoder = candidates.ids, self.context.histories.context
        context = encoder.of_each(query.context, query.of_each) if query.of_each else query.context
        if len(ids) > self.options.max_candidates:
            raise RequestError(f"{len(ids)} candidates in one call; send at most {self.options.max_candidates}")
        check_candidates(ids)
        for task in query.tasks:
            if task not in self.tasks:
                raise RequestError(f"tasks: there is no task {shown(task)}; choose from {', '.join(self.tasks)}")
        if query.top_k < 0:
            raise RequestError(f"top_k is {query.top_k}; it must be 0 (all) or more")
        encoder.encode(candidates.context(encoder, context), len(ids))
        weights = self._weights(query.value)
        return StageRequest(user=query.user, time=time, context=context, weights=weights, top_k=query.top_k)

    def warm_up(self) -> None:
        """Rank for an unknown user, so that the first real request finds everything loaded.

        On an accelerator also for a few users: kernels are compiled for the sizes of their histories.
        """
        users = [] if self.engine.device.type == "cpu" else self.context.users.ids[1 : 1 + WARM_USERS].to_pylist()
        after = self.bundle.manifest.split.last_time + 1
        for user, when in [("", 0), *((user, after) for user in users)]:
            self.engine.score([EngineRequest(user=user, items=np.zeros(1, np.int64), time=when)])

    def _weights(self, value: Mapping[str, float] | str) -> Mapping[str, float]:
        if not isinstance(value, str):
            check_value(value, self.spec)
            return value
        formulas = self.options.values
        if value and value not in formulas:
            known = ", ".join(formulas) or "none"
            raise RequestError(
                f"value: there is no formula {shown(value)} ({known}); choose one, or give weights by task"
            )
        return formulas[value] if value else self.bundle.config.value


def rank_answer(outcome: PipelineOutcome) -> RankAnswer:
    """The answer of a pipeline with a ranking: the candidates after its last stage."""
    report = outcome.reports[RANKING]
    model, seen = report.model, report.candidates.user
    assert isinstance(model, Deployment)
    return RankAnswer(
        user=outcome.query.user,
        user_known=seen.known,
        history_current=seen.history_current,
        time=outcome.time,
        num_history=seen.num_history,
        num_encoded=seen.num_encoded,
        places=ranked_items(outcome.candidates, model.tasks),
        model_version=model.bundle.version,
        waited=report.waited,
        worked=report.worked,
        clock_behind=outcome.clock_behind,
    )
