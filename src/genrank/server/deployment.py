"""One model ready to rank: requests in, answers out, without a queue."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from genrank.artifacts.bundle import Bundle
from genrank.inference.gen_ranker import RankedItem, check_value, ranked_items
from genrank.inference.histories import Histories, UserHistory
from genrank.inference.pipeline import Pipeline, PipelineAnswer, StageReport
from genrank.inference.ranking_engine import Cache, EngineRequest, RankingEngine
from genrank.inference.serving_context import ServingContext
from genrank.inference.stages import OrderStage, RankingStage, StageCandidates, StageRequest
from genrank.nn.devices import device_named, precision_on
from genrank.server.service_options import ServiceOptions

WARM_USERS = 8


@dataclass(frozen=True, kw_only=True)
class RankRequest:
    """A request for a ranking. time: seconds since the epoch, None for now. context: see FeatureEncoder.encode.

    of_each: names in `context` whose value is a list with one value per candidate, even if it could be read otherwise.
    histories: the user's histories that were read already, see StageCandidates.
    """

    user: str
    candidates: tuple[str, ...]
    time: int | None = None
    context: Mapping[str, Any] = field(default_factory=dict)
    of_each: frozenset[str] = frozenset()
    tasks: tuple[str, ...] = ()  # wanted in the answer; empty: all
    value: Mapping[str, float] | str = ""
    top_k: int = 0  # 0: all
    histories: Mapping[Histories, UserHistory] = field(default_factory=dict)


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
    stages: tuple[StageReport, ...] = ()  # what each stage of the pipeline did


@dataclass(frozen=True)
class PendingRanking:
    """A request that waits for its answer, with what was decided when it came."""

    deployed: "Deployment"  # the model when the request came, against whose tasks and features it was checked
    request: RankRequest
    time: int
    weights: Mapping[str, float]
    began: float
    clock_behind: float = 0.0


class Deployment:
    """One model ready to rank: its users and items, its engine, and the pipeline of scoring and ordering."""

    def __init__(self, bundle: Bundle, context: ServingContext, *, cache: Cache, options: ServiceOptions):
        """Raises BundleError for a damaged bundle, RequestError for a value formula with tasks that it doesn't have."""
        self.bundle, self.spec, self.context = bundle, bundle.manifest.spec, context
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
        self.pipeline = Pipeline([RankingStage(self.engine), OrderStage()])
        self.tasks = tuple(task.name for task in self.spec.tasks)

    def rank(self, batch: Sequence[PendingRanking]) -> list[RankAnswer]:
        """The answers, in order."""
        begun = time.monotonic()
        answers = self.pipeline.run(
            [
                StageRequest(
                    user=asked.request.user,
                    time=asked.time,
                    context=asked.request.context,
                    weights=asked.weights,
                    top_k=asked.request.top_k,
                )
                for asked in batch
            ],
            [StageCandidates.given(asked.request.candidates, asked.request.histories) for asked in batch],
        )
        worked = time.monotonic() - begun
        return [
            self._answer(asked, answer, waited=begun - asked.began, worked=worked)
            for asked, answer in zip(batch, answers, strict=True)
        ]

    def _answer(self, asked: PendingRanking, answer: PipelineAnswer, *, waited: float, worked: float) -> RankAnswer:
        ranked = answer.candidates
        return RankAnswer(
            user=asked.request.user,
            user_known=ranked.user.known,
            history_current=ranked.user.history_current,
            time=asked.time,
            num_history=ranked.user.num_history,
            num_encoded=ranked.user.num_encoded,
            places=ranked_items(ranked, self.tasks),
            model_version=self.bundle.version,
            waited=waited,
            worked=worked,
            clock_behind=asked.clock_behind,
            stages=answer.reports,
        )

    def warm_up(self) -> None:
        """Rank for an unknown user, so that the first real request finds everything loaded.

        On an accelerator also for a few users: kernels are compiled for the sizes of their histories.
        """
        users = [] if self.engine.device.type == "cpu" else self.context.users.ids[1 : 1 + WARM_USERS].to_pylist()
        after = self.bundle.manifest.split.last_time + 1
        for user, when in [("", 0), *((user, after) for user in users)]:
            self.engine.score([EngineRequest(user=user, items=np.zeros(1, np.int64), time=when)])
