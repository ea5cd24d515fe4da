"""A prepared feed whose test part is served: requests and events in order of time."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from genrank.data.decoding import Decoder
from genrank.data.loader import Loader, LoaderConfig
from genrank.data.past_search import SearchConfig
from genrank.data.prepared import PreparedData
from genrank.data.sequence import SequenceConfig
from genrank.inference.catalogue import Catalogue
from genrank.inference.histories import Histories
from genrank.inference.pasts import PastInMemory
from genrank.inference.ranking_engine import EngineRequest, RankingEngine, history_cache
from genrank.inference.sqlite_store import SQLiteStore
from genrank.inference.store import Event
from genrank.inference.traffic import events_of
from genrank.models.ranker import Ranker, build_ranker
from genrank.runs.predict import predict
from zoo import config

MAX_HISTORY = 24


class ServedFeed:
    """A prepared feed whose test part is served: requests and events in order of time."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.data = PreparedData.load(folder)
        manifest = self.data.manifest
        self.spec, self.test_start = manifest.spec, manifest.split.test_start
        self.decoder = Decoder(folder, manifest)

    def ranker(self, name: str) -> Ranker:
        torch.manual_seed(0)
        changes: dict[str, Any] = {"search": SearchConfig(kind="hard", by="topic")} if name == "hstu-sim" else {}
        model = build_ranker(config(name, **changes), self.spec, max_history=MAX_HISTORY)
        for parameter in model.parameters():  # far from the small numbers of a new model
            torch.nn.init.normal_(parameter, std=0.3) if parameter.ndim > 1 else None
        return model.eval()

    def judged(self, model: Ranker) -> dict[int, dict[str, float]]:
        """Offline scores by exposure."""
        builder = self.builder(model)
        found = predict(model, Loader(builder, self.data.part(builder, "test"), LoaderConfig(shuffle=False)), self.data)
        return {
            int(row): {task: float(score[place]) for task, score in found.scores.items()}
            for place, row in enumerate(found.exposure)
        }

    def builder(self, model: Ranker):
        return self.data.builder(self.sequence, model.config.search)

    @property
    def sequence(self) -> SequenceConfig:
        return SequenceConfig(max_history=MAX_HISTORY, grouping="user")

    def requests(self, model: Ranker, *, users: int = 12) -> Iterator[tuple[np.ndarray, EngineRequest]]:
        """(rows, request) of the test part, in order of time."""
        builder, t = self.builder(model), self.data.timelines
        rows = np.flatnonzero(builder.request_time >= self.test_start)
        rows = rows[np.isin(builder.user_of_row[rows], np.unique(builder.user_of_row[rows])[:users])]
        order = np.lexsort((rows, builder.request_key[rows], builder.request_time[rows]))
        rows = rows[order]
        for own in np.split(rows, np.flatnonzero(np.diff(builder.request_key[rows])) + 1):
            contexts = self.decoder.contexts(t, own)
            names = [feature.name for feature in self.spec.of("exposure")]
            yield (
                own,
                EngineRequest(
                    user=str(self.data.users.ids[int(t.users[builder.user_of_row[own[0]]])]),
                    items=t.item[own].astype(np.int64),
                    time=int(builder.request_time[own[0]]),
                    context={name: [context.get(name) for context in contexts] for name in names},
                ),
            )

    def events(self, user: str, rows: np.ndarray) -> list[Event]:
        return list(events_of(self.data.timelines, rows, user=user, items=self.data.items, decoder=self.decoder))

    def histories(self, store: SQLiteStore | None, *, until: bool = True) -> Histories:
        """Of the log before the test part, or of all of it, and of the store's events."""
        manifest = self.data.manifest
        return Histories(
            self.folder,
            manifest,
            past=PastInMemory(self.folder, self.spec, until=self.test_start if until else None),
            catalogue=Catalogue(self.data.items, self.folder, manifest),
            users=self.data.users,
            store=store,
        )

    def engine(self, model: Ranker, store: SQLiteStore | None, *, cache: bool = True, **options: Any) -> RankingEngine:
        histories = self.histories(store)
        return RankingEngine(
            model,
            self.sequence,
            version="v1",
            histories=histories,
            cache=history_cache(10**8) if cache else None,
            **options,
        )
