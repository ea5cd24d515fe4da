"""Scores for a table or a file of candidates: one row each, in the given order, equal to those of ranking.

The rows of one user and time are one request. A candidate's score doesn't depend on the other candidates of its
request, so a request can be scored in pieces, and a file in batches of rows. In memory are one batch, and the histories
of the prepared data unless they are too many: then those of the candidates' users are collected in a temporary file.

Columns read: `user`, `item`; `time` (whole seconds since the epoch, or timestamps, in the schema's zone if they have
none; without the column, one second after the data's last exposure); and the context features by name. `request` is
copied. Other columns are ignored. Columns written: the given keys, `score_<task>` for each task (a probability, or
expected seconds), and `value`, their weighted sum.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from genrank.artifacts.bundle import load_bundle
from genrank.errors import BundleError, RequestError, shown
from genrank.ids import check_id
from genrank.inference.candidate_files import CandidateFile, new_file
from genrank.inference.gen_ranker import LATEST, GenRanker, as_id, check_value
from genrank.inference.ranking_engine import EngineRequest
from genrank.inference.stages import value_of

Ints = NDArray[np.int64]
REQUIRED, KEYS = ("user", "item"), ("user", "item", "time", "request")
MAX_ROWS = 2048  # scored in one pass; a larger request is scored in pieces
MAX_REQUESTS = 64


@dataclass
class ScoringSummary:
    """Counts of a scoring. unused: columns that are neither key nor context feature. missing_context: features without
    a column, which are unknown to the model."""

    rows: int = 0
    requests: int = 0  # of the same user and time, counted per batch of rows
    unknown_users: int = 0  # rows whose user has no history in the data
    unknown_items: int = 0  # rows whose item is in no table
    unused: tuple[str, ...] = ()
    missing_context: tuple[str, ...] = ()
    model_version: str = ""


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """Checked rows of a batch. N rows."""

    user: list[str]
    item: Ints  # (N) rows of the item table
    item_ids: list[str]
    time: Ints  # (N) seconds
    context: Mapping[str, list[Any]]  # (N) values per feature


def ranker_of_many(run: Path, *, data: Path | None = None, device: str = "cpu") -> GenRanker:
    """The newest bundle of a run, with histories for many requests. BundleError for a retriever's."""
    bundle = load_bundle(run)
    if bundle.config.model.kind == "retrieval":
        raise BundleError(
            f"{run}: is a retriever, which finds items and can't score given ones; score with a ranker's run, or see "
            "genrank retrieve"
        )
    return GenRanker(bundle, data=data, device=device, in_memory=True)


def score_table(ranker: GenRanker, table: pa.Table, *, value: Mapping[str, float] | None = None) -> pa.Table:
    """The keys of `table` with `score_<task>` and `value`, row for row; see the module for the columns.

    value: weight of each task's score; None: the run's. RequestError for a missing column, and for a row that can't be
    scored, with its number.
    """
    scorer, rows = BatchScorer(ranker, table.schema, value=value), table.to_batches(max_chunksize=2**16)
    with ranker.engine.histories.collected(_users(batch.column("user") for batch in rows)):
        batches = [scorer.score(batch) for batch in rows]
    return pa.Table.from_batches(batches, schema=scorer.schema)


def score_file(ranker: GenRanker, path: Path, out: Path, *, value: Mapping[str, float] | None = None) -> ScoringSummary:
    """Score the candidates in a Parquet, CSV or TSV file into `out`, in the format that its name ends with.

    `out` is complete or absent, and replaces a file of that name. Raises RequestError as `score_table`, LogError for a
    file that can't be read, OutputError where `out` can't be written.
    """
    source = CandidateFile.open(path)
    scorer = BatchScorer(ranker, source.schema, value=value)
    users = _users(batch.column("user") for batch in source.batches(columns=["user"]))
    with new_file(out, scorer.schema) as write, ranker.engine.histories.collected(users, scratch=out.parent):
        for batch in source.batches(columns=scorer.columns):
            write(scorer.score(batch))
    return scorer.summary


def _users(columns: Iterable[pa.Array]) -> Iterator[str]:
    """The users in columns of ids, each once per column. What is no id is left out here; scoring refuses it."""
    for column in columns:
        for value in column.unique().to_pylist():
            with suppress(RequestError):
                yield as_id("user", value)


class BatchScorer:
    """Scores batches of rows that have one schema."""

    def __init__(self, ranker: GenRanker, schema: pa.Schema, *, value: Mapping[str, float] | None = None):
        self.ranker = ranker
        self.weights = dict(ranker.bundle.config.value if value is None else value)
        check_value(self.weights, ranker.spec)
        missing = [name for name in REQUIRED if name not in schema.names]
        if missing:
            raise RequestError(
                f"there is no column {' and no column '.join(map(repr, missing))} among {shown(schema.names)}; "
                "candidates have the columns user and item, one row for each candidate; rename or add them"
            )
        for name in schema.names:
            if schema.names.count(name) > 1:
                raise RequestError(f"there are {schema.names.count(name)} columns {name!r}; rename all but one")
        self.features = [f.name for f in ranker.spec.of("exposure") if f.name in schema.names]
        self.keys = [name for name in KEYS if name in schema.names]
        self.columns = list(dict.fromkeys([*self.keys, *self.features]))
        self.zone = ranker.bundle.manifest.schema.time.zone or "UTC"
        self.tasks = [task.name for task in ranker.spec.tasks]
        scores = [(f"score_{task}", pa.float64()) for task in self.tasks]
        keys = [schema.field(name) for name in self.keys]
        self.schema = pa.schema([*keys, *(pa.field(*each) for each in scores), pa.field("value", pa.float64())])
        self.summary = ScoringSummary(
            unused=tuple(name for name in schema.names if name not in self.columns),
            missing_context=tuple(f.name for f in ranker.spec.of("exposure") if f.name not in self.features),
            model_version=ranker.bundle.version,
        )

    def score(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The batch's keys, scores and value, in its order."""
        rows = self._checked(batch)
        scores = {task: np.zeros(len(rows.time)) for task in self.tasks}
        for requests in self._passes(rows):
            found = self.ranker.engine.score([self._request(rows, places) for places in requests])
            for places, answer in zip(requests, found, strict=True):
                for task in self.tasks:
                    scores[task][places] = answer.scores[task]
                self.summary.unknown_users += 0 if answer.user_known else len(places)
        values = value_of(rows.item_ids, scores, self.weights)
        self.summary.rows += len(rows.time)
        self.summary.unknown_items += int((rows.item == 0).sum())
        columns = [batch.column(name) for name in self.keys] + [pa.array(scores[task]) for task in self.tasks]
        return pa.record_batch([*columns, pa.array(values)], schema=self.schema)

    def _passes(self, rows: _Rows) -> Iterator[list[Ints]]:
        """Row numbers of the requests, or of pieces of large ones, that are scored together."""
        places: dict[tuple[str, int], list[int]] = {}
        for place, key in enumerate(zip(rows.user, rows.time.tolist(), strict=True)):
            places.setdefault(key, []).append(place)
        self.summary.requests += len(places)
        together: list[Ints] = []
        for found in places.values():
            for begin in range(0, len(found), MAX_ROWS):
                piece = np.array(found[begin : begin + MAX_ROWS])
                if together and (len(together) == MAX_REQUESTS or sum(map(len, together)) + len(piece) > MAX_ROWS):
                    yield together
                    together = []
                together.append(piece)
        if together:
            yield together

    def _request(self, rows: _Rows, places: Ints) -> EngineRequest:
        context: dict[str, Any] = {name: [column[place] for place in places] for name, column in rows.context.items()}
        return EngineRequest(
            user=rows.user[places[0]],
            items=rows.item[places],
            time=int(rows.time[places[0]]),
            context=self.ranker.engine.histories.context.of_each(context, list(context)),
        )

    def _checked(self, batch: pa.RecordBatch) -> _Rows:
        first = self.summary.rows + 1
        user, item = (_ids(name, batch.column(name), first) for name in REQUIRED)
        times = np.full(len(user), self.ranker.bundle.manifest.split.last_time + 1)
        if "time" in self.keys:
            times = _times(batch.column("time"), first, zone=self.zone)
        return _Rows(
            user=user,
            item=self.ranker.items.find(item),
            item_ids=item,
            time=times,
            context={name: batch.column(name).to_pylist() for name in self.features},
        )


def _ids(name: str, column: pa.Array, first: int) -> list[str]:
    """Ids in the form of logs. RequestError with the row of a value that is no id."""
    coded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    indices = coded.indices
    if indices.null_count:
        row = first + indices.is_null().to_pylist().index(True)
        raise RequestError(f"row {row}: {name} is missing; give every candidate one")
    texts, codes = [], indices.to_numpy()
    for code, value in enumerate(coded.dictionary.to_pylist()):
        try:
            texts.append(check_id(name, as_id(name, value)))
        except RequestError as problem:
            used = np.flatnonzero(codes == code)
            if len(used):
                raise RequestError(f"row {first + int(used[0])}: {problem}") from None
            texts.append("")
    return [texts[code] for code in codes.tolist()]


def _times(column: pa.Array, first: int, *, zone: str) -> Ints:
    """Seconds since the epoch. RequestError with the row of a value that is no time."""
    if pa.types.is_timestamp(column.type):
        if column.type.tz is None:
            column = pc.assume_timezone(column, zone, ambiguous="earliest", nonexistent="earliest")
        column = pc.floor_temporal(column, unit="second").cast(pa.timestamp("s", column.type.tz)).cast(pa.int64())
    if not pa.types.is_integer(column.type):
        raise RequestError(
            f"time: expected whole seconds since the epoch or timestamps, found {column.type}; write them as integers"
        )
    odd = pc.fill_null(pc.or_(pc.less(column, 0), pc.greater_equal(column, LATEST)), True).to_numpy(
        zero_copy_only=False
    )
    if odd.any():
        place = int(np.flatnonzero(odd)[0])
        raise RequestError(
            f"row {first + place}: time is {shown(column[place].as_py())}; give whole seconds since the epoch "
            "(milliseconds are divided by 1000)"
        )
    times: Ints = column.to_numpy(zero_copy_only=False).astype(np.int64)
    return times
