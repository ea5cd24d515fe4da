"""GenRanker: from a run folder to ranked candidates, computed as in training.

    ranker = GenRanker.load("runs/mine")
    ranking = ranker.rank("u42", ["i1", "i2", "i3"])
    for place in ranking.places:
        print(place.item, place.value, place.scores)

The user's history and the request become one timeline; the sequence builder that cut the training samples cuts this
one; the model encodes the history and scores all candidates over it in one pass.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrank.artifacts import pretrained
from genrank.artifacts.bundle import Bundle, load_bundle, require_same_schema
from genrank.config import nearest
from genrank.data.categories import id_text
from genrank.data.manifest import Manifest
from genrank.data.request import load_recent_statistics, load_statistics
from genrank.data.tables import FeatureTable
from genrank.data.weights import LARGEST_WEIGHT
from genrank.data.window_statistics import WindowStatistics
from genrank.errors import RequestError, shown
from genrank.ids import check_id
from genrank.inference.catalogue import Catalogue
from genrank.inference.histories import Histories
from genrank.inference.pasts import PastOnDisk, open_past
from genrank.inference.pipeline import Pipeline
from genrank.inference.ranking_engine import RankingEngine
from genrank.inference.stages import VALUE, OrderStage, RankingStage, StageCandidates, StageRequest
from genrank.nn.devices import device_named
from genrank.schema import DataSpec

Ints = NDArray[np.int64]
LATEST = 2**40  # seconds; the service has the same bound


@dataclass(frozen=True, kw_only=True)
class RankedItem:
    """One candidate in the ranking. known: false if the item is in no table, so that its features are unknown."""

    item: str
    value: float
    scores: dict[str, float]  # per task: a probability, or expected seconds
    known: bool


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Candidates in falling order of value."""

    user: str
    user_known: bool
    time: int  # seconds since the epoch
    num_history: int  # past exposures that the model saw
    places: tuple[RankedItem, ...]
    model_version: str
    missing_context: tuple[str, ...] = ()  # context features of the model that were not given


class GenRanker:
    """A loaded bundle that ranks."""

    def __init__(self, bundle: Bundle, *, data: Path | None = None, device: str = "cpu", in_memory: bool = False):
        """in_memory: read all histories at once, for many requests, if there are not too many: see PastLimits."""
        on = device_named(device)
        self.bundle, self.device = bundle, str(on)
        self.spec = bundle.manifest.spec
        self.data = data if data is not None else Path(bundle.config.data)
        require_same_schema(bundle, self.data, Manifest.open(self.data))
        self.model = bundle.model(on)
        # Items and users come from the data, whose rows the timelines name; it may know newer ones than the bundle.
        self.items = FeatureTable.load(self.data, "item", self.spec)
        self.users = FeatureTable.load(self.data, "user", self.spec)
        histories = Histories(
            self.data,
            bundle.manifest,
            past=(open_past if in_memory else PastOnDisk)(self.data, self.spec),
            catalogue=Catalogue(self.items, self.data, bundle.manifest),
            users=self.users,
        )
        self.engine = RankingEngine(
            self.model,
            bundle.config.sequence,
            version=bundle.version,
            histories=histories,
            statistics=self._statistics,
            device=on,
        )
        self.pipeline = Pipeline([RankingStage(self.engine), OrderStage()])

    @classmethod
    def load(cls, run: str | Path, *, data: str | Path | None = None, device: str = "cpu") -> "GenRanker":
        """The newest bundle of a run. data: a prepared folder with the histories; None: that of the run.

        Raises BundleError or DataError, in one line, for missing or damaged files or another schema, and ConfigError
        for a device that doesn't exist.
        """
        return cls(load_bundle(Path(run)), data=None if data is None else Path(data), device=device)

    @classmethod
    def from_pretrained(
        cls, name: str | Path, *, data: str | Path | None = None, device: str = "cpu", revision: str | None = None
    ) -> "GenRanker":
        """A model written by `save_pretrained`: a folder, or OWNER/NAME of the Hugging Face Hub. See `load`."""
        return cls.load(pretrained.fetch(name, revision=revision), data=data, device=device)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Copy the model into a new folder with a model card. Histories stay in the prepared folder. OutputError."""
        return pretrained.save(self.bundle, Path(folder))

    def push_to_hub(self, repository: str, folder: str | Path, *, private: bool = True) -> str:
        """`save_pretrained` into `folder`, and upload it to OWNER/NAME; returns its address. Needs huggingface_hub."""
        return pretrained.push(self.save_pretrained(folder), repository, private=private)

    def rank(
        self,
        user: str,
        candidates: Sequence[str],
        *,
        time: int | None = None,
        context: Mapping[str, Any] | None = None,
        value: Mapping[str, float] | None = None,
    ) -> Ranking:
        """Rank `candidates` for `user`.

        time: seconds since the epoch; None: one second after the data's last exposure. Later exposures are not seen.
        context: features of the exposure by name, one value for all candidates or a list with one value each; features
        that are not given are unknown, and `missing_context` names them. value: weight of each task's score in the
        value that orders candidates; None: the run's. A user or item that is not in the data is ranked as unknown, and
        the answer says so. Raises RequestError for no or repeated candidates and unknown names.
        """
        user, candidates = check_id("user", as_id("user", user)), as_ids("candidates", candidates)
        check_candidates(candidates)
        weights = dict(self.bundle.config.value if value is None else value)
        check_value(weights, self.spec)
        when = self.bundle.manifest.split.last_time + 1 if time is None else check_time(time)
        request = StageRequest(user=user, time=when, context=context or {}, weights=weights)
        (answer,) = self.pipeline.run([request], [StageCandidates.given(candidates)])
        seen = answer.candidates.user
        return Ranking(
            user=user,
            user_known=seen.known,
            time=when,
            num_history=seen.num_history,
            places=ranked_items(answer.candidates, [task.name for task in self.spec.tasks]),
            model_version=self.bundle.version,
            missing_context=tuple(f.name for f in self.spec.of("exposure") if f.name not in (context or {})),
        )

    def _statistics(self, user: str, items: Ints, time: int) -> NDArray[np.float16]:
        """(C, S) window statistics at the request's time."""
        row = self.users.find([user])[0]
        recent = self._recent
        statistics = self.statistics if recent is None or time < recent[0] else recent[1]
        return statistics.answers(np.full(len(items), row), items, np.full(len(items), time))

    @cached_property
    def _recent(self) -> tuple[int, WindowStatistics] | None:
        """The counts of the folder's totals, and the time from which they answer; None where there are none."""
        return load_recent_statistics(self.data, self.bundle.manifest)

    @cached_property
    def statistics(self) -> WindowStatistics:
        """Counts over the whole log, for requests that its totals don't answer; for the memory see `load_statistics`.

        Smoothing and base rates are those that the model was trained with.
        """
        return load_statistics(self.data, self.bundle.manifest)


def ranked_items(candidates: StageCandidates, tasks: Sequence[str]) -> tuple[RankedItem, ...]:
    """The candidates in their order, with their value and the scores of `tasks`."""
    columns = [candidates.columns[task].tolist() for task in tasks]  # Python's numbers, faster than one at a time
    values, known = candidates.columns[VALUE].tolist(), (candidates.rows > 0).tolist()
    return tuple(
        RankedItem(item=item, value=value, scores=dict(zip(tasks, scores, strict=True)), known=is_known)
        for item, value, is_known, *scores in zip(candidates.ids, values, known, *columns, strict=True)
    )


def check_time(time: int) -> int:
    """The time; RequestError if it can't be seconds since the epoch."""
    if isinstance(time, bool) or not isinstance(time, int | np.integer) or not 0 <= time < LATEST:
        raise RequestError(
            f"time is {shown(time)}; give whole seconds since the epoch (milliseconds are divided by 1000)"
        )
    return int(time)


def check_value(weights: Mapping[str, float], spec: DataSpec) -> None:
    """RequestError if a value formula has an unknown task, or a weight that is not finite or too large."""
    tasks = [task.name for task in spec.tasks]
    for task, weight in weights.items():
        if task not in tasks:
            raise RequestError(f"value: there is no task {shown(task)}; {nearest(task[:200], tasks)}")
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not abs(weight) <= LARGEST_WEIGHT:
            raise RequestError(
                f"value: the weight of {task} is {shown(weight)}; give a finite number, from -1e18 to 1e18"
            )


def as_ids(what: str, ids: Sequence[Any]) -> list[str]:
    """Ids in the form of logs. RequestError for a text instead of a list, and for a value that can't be an id."""
    if isinstance(ids, str | bytes):
        raise RequestError(f"{what}: expected a list of ids, found the text {shown(ids)}; put it in a list")
    return [as_id(what, each) for each in ids]


def as_id(what: str, value: Any) -> str:
    """An id in the form of logs; RequestError for a value that can't be one."""
    try:
        return id_text(value)
    except ValueError as problem:
        raise RequestError(f"{what}: {problem}; send ids as text or whole numbers") from None


def check_candidates(candidates: Sequence[str]) -> None:
    """RequestError for no, empty, too long or repeated candidates."""
    if not len(candidates):
        raise RequestError("there are no candidates to rank; give at least one item id")
    seen: set[str] = set()
    for item in candidates:
        if item == "":
            raise RequestError("a candidate is empty; give item ids separated by single commas")
        if item in seen:
            raise RequestError(f"the candidate {shown(item)} is given twice; give every item once")
        check_id("candidates", item)
        seen.add(item)
