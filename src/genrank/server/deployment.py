"""One model ready to rank: requests in, answers out, without a queue."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrank.artifacts.bundle import Bundle
from genrank.inference.gen_ranker import RankedItem, check_value, in_order
from genrank.inference.ranking_engine import Cache, EngineRequest, RankingEngine, Scored
from genrank.inference.serving_context import ServingContext
from genrank.nn.devices import device_named, precision_on
from genrank.server.service_options import ServiceOptions

WARM_USERS = 8


@dataclass(frozen=True, kw_only=True)
class RankRequest:
    """What a caller asks. time: seconds since the epoch, None for now. context: see FeatureEncoder.encode.

    of_each: names in `context` whose value is a list with one for each candidate, whatever it looks like.
    """

    user: str
    candidates: tuple[str, ...]
    time: int | None = None
    context: Mapping[str, Any] = field(default_factory=dict)
    of_each: frozenset[str] = frozenset()
    tasks: tuple[str, ...] = ()  # wanted in the answer; empty: all
    value: Mapping[str, float] | str = ""
    top_k: int = 0  # 0: all


@dataclass(frozen=True, kw_only=True)
class RankAnswer:
    """Candidates in falling order of value, and how the answer came about. Times in seconds."""

    user: str
    user_known: bool
    history_current: bool  # false: the store was out of reach, and events may be missing
    time: int
    num_history: int
    num_encoded: int
    places: tuple[RankedItem, ...]
    model_version: str
    waited: float
    worked: float
    clock_behind: float = 0.0  # see Clock.behind; 0 where the request brought a time of its own


@dataclass(frozen=True)
class PendingRanking:
    """A request on its way, with what was settled when it came."""

    deployed: "Deployment"  # at the time of asking: its tasks and features are what the request was checked for
    request: RankRequest
    time: int
    weights: Mapping[str, float]
    began: float
    clock_behind: float = 0.0


class Deployment:
    """One model ready to rank: what is known of users and items, and its engine."""

    def __init__(self, bundle: Bundle, context: ServingContext, *, cache: Cache, options: ServiceOptions):
        """Raises BundleError and RequestError for a damaged bundle or a value formula that isn't its own."""
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

    def rank(self, batch: Sequence[PendingRanking]) -> list[RankAnswer]:
        """The answers, in order."""
        begun = time.monotonic()
        rows = [self.context.catalogue.find(asked.request.candidates) for asked in batch]
        found = self.engine.score(
            [
                EngineRequest(user=asked.request.user, items=items, time=asked.time, context=asked.request.context)
                for asked, items in zip(batch, rows, strict=True)
            ]
        )
        worked, version = time.monotonic() - begun, self.bundle.version
        return [
            _answer(asked, scored, items > 0, version=version, times=(begun - asked.began, worked))
            for asked, scored, items in zip(batch, found, rows, strict=True)
        ]

    def warm_up(self) -> None:
        """Requests of nobody's, so that the first one of somebody's finds everything loaded.

        On an accelerator also of a few users, whose histories are what kernels are compiled for.
        """
        users = [] if self.engine.device.type == "cpu" else self.context.users.ids[1 : 1 + WARM_USERS].to_pylist()
        after = self.bundle.manifest.split.last_time + 1
        for user, when in [("", 0), *((user, after) for user in users)]:
            self.engine.score([EngineRequest(user=user, items=np.zeros(1, np.int64), time=when)])


def _answer(
    asked: PendingRanking, scored: Scored, known: NDArray[np.bool_], *, version: str, times: tuple[float, float]
) -> RankAnswer:
    request = asked.request
    places = in_order(request.candidates, scored.scores, known=known, weights=asked.weights)
    return RankAnswer(
        user=request.user,
        user_known=scored.user_known,
        history_current=scored.history_current,
        time=asked.time,
        num_history=scored.num_history,
        num_encoded=scored.num_encoded,
        places=places[: request.top_k] if request.top_k else places,
        model_version=version,
        waited=times[0],
        worked=times[1],
        clock_behind=asked.clock_behind,
    )
