"""A user's history as the ranking model sees it, for people who look into a service."""

from typing import Any

import numpy as np

from genrank.data.sequence import window_start
from genrank.server.deployment import Deployment


def shown_history(deployed: Deployment, user: str) -> dict[str, Any]:
    """`user`, `known`, `current`, `exposures` and `window`, as in UserAnswerBody: what a ranking would see now."""
    history, ids = deployed.context.histories.of(user), deployed.context.catalogue.table.ids
    t = history.timeline
    begin = int(window_start(np.array([t.num_exposures]), deployed.engine.sequence.max_history)[0])
    window = [
        {
            "item": str(ids[int(t.item[row])]),
            "time": int(t.time[row]),
            "actions": {name: _plain(column[row]) for name, column in t.tasks.items()},
        }
        for row in range(begin, t.num_exposures)
    ]
    return {
        "user": user,
        "known": history.row > 0,
        "current": history.current,
        "exposures": t.num_exposures,
        "window": window,
    }


def _plain(value: Any) -> bool | float | None:
    """A task's value as it was sent: bool, seconds, None for unknown."""
    if value.dtype == np.int8:
        return None if value < 0 else bool(value)
    return None if np.isnan(value) else float(value)
