"""A prepared folder's exposures as the events that the backend of a feed would send."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from genrank.data.decoding import Decoder
from genrank.data.tables import FeatureTable
from genrank.data.timelines import Timelines
from genrank.inference.store import Event


def events_of(
    t: Timelines, rows: NDArray[np.int64], *, user: str, items: FeatureTable, decoder: Decoder
) -> Sequence[Event]:
    """The rows, all of `user`, in raw values."""
    return [
        Event(
            user=user,
            item=str(items.ids[int(t.item[row])]),
            time=int(t.time[row]),
            request=f"r{t.request[row]}",
            position=int(t.position[row]),
            actions=actions,
            context=context,
            known_at=0 if t.known_at is None else int(t.known_at[row]),
        )
        for row, actions, context in zip(
            rows.tolist(), decoder.actions(t, rows), decoder.contexts(t, rows), strict=True
        )
    ]
