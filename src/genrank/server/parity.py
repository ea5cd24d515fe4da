"""Compare a running service with the evaluation: send a part of a prepared log over HTTP, request by request.

The service must have been started with `--until` the part's first second, so that it knows the part from events only.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genrank.client import Client
from genrank.data.decoding import Decoder
from genrank.data.groups import group_starts
from genrank.data.prepared import Part, PreparedData
from genrank.data.sequence import SequenceBuilder
from genrank.inference.store import Event
from genrank.inference.traffic import events_of

Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class ServedPart:
    """rows: rows of the timelines, in order. scores: per task, for these rows. durations: milliseconds per request."""

    rows: Ints
    scores: dict[str, NDArray[np.float64]]
    durations: NDArray[np.float64]


def serve_part(
    client: Client,
    data: PreparedData,
    builder: SequenceBuilder,
    *,
    part: Part = "test",
    progress: Callable[[float], None] = lambda _: None,
) -> ServedPart:
    """Rank every request of the part in order of time, and send the service each one's exposures before the next.

    progress: called with the share that is done. An item that is shown twice in a request is ranked once.
    """
    samples = data.part(builder, part)
    rows = np.sort(samples.candidates)
    decoder = Decoder(data.folder, data.manifest)
    names = [feature.name for feature in data.manifest.spec.of("exposure")]
    order = np.lexsort((rows, builder.request_key[rows], builder.request_time[rows]))
    starts = group_starts(builder.request_key[rows][order])
    scores = {task.name: np.full(len(rows), np.nan) for task in data.manifest.spec.tasks}
    durations = []
    for number, places in enumerate(np.split(order, starts[1:])):
        shown = rows[places]
        events = _events(data, builder, shown, decoder)
        once = list({event.item: event for event in events}.values())
        answer = client.rank(
            events[0].user,
            [{"item": event.item, "context": {n: event.context.get(n) for n in names}} for event in once],
            time=int(builder.request_time[shown[0]]),
        )
        found = {place["item"]: place["scores"] for place in answer["places"]}
        durations.append(answer["waited_ms"] + answer["worked_ms"])
        for place, event in zip(places.tolist(), events, strict=True):
            for task, column in scores.items():
                column[place] = found[event.item][task]
        client.send_events([_body(event) for event in events])
        progress((number + 1) / len(starts))
    return ServedPart(rows=rows, scores=scores, durations=np.array(durations))


def _events(data: PreparedData, builder: SequenceBuilder, rows: Ints, decoder: Decoder) -> Sequence[Event]:
    """The rows, all of one user, as events."""
    t = data.timelines
    user = str(data.users.ids[int(t.users[builder.user_of_row[rows[0]]])])
    return events_of(t, rows, user=user, items=data.items, decoder=decoder)


def _body(event: Event) -> dict[str, object]:
    return {
        "user": event.user, "item": event.item, "time": event.time, "request": event.request,
        "position": event.position, "actions": dict(event.actions), "context": dict(event.context),
        "known_at": event.known_at,
    }  # fmt: skip
