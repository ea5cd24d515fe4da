"""The general search of SIM (arXiv 2006.05639): selects the events of the life-long history for a candidate.

Only events before the sample's window are searched; the models read the window itself. `hard` takes the latest events
of the candidate's category, from an index over the timelines: one binary search per candidate for a history of any
length. `soft` passes each user's latest events on, and the model selects the most relevant.

Shapes: N exposures, S samples, C candidates, E events found.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from genrank.data.timelines import offsets_of, ranges

Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """SIM's search. `num_retrieved` and `max_events` are ours; the paper retrieves some 200 of up to 54,000."""

    kind: Literal["none", "hard", "soft"] = "none"
    by: str = (
        ""  # hard: a categorical or multi-valued feature of the item (its first value); empty: the first such feature
    )
    num_retrieved: int = 32  # events that the exact search attends to
    max_events: int = 2048  # soft: number of latest events before the window to search

    def __post_init__(self) -> None:
        for name in ("num_retrieved", "max_events"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.by and self.kind != "hard":
            raise ValueError(f"search.by names {self.by!r}, but search.kind is {self.kind}; set search.kind=hard")


class CategoryIndex:
    """An index of timeline rows by (user, category), in order of time."""

    def __init__(self, user_of_row: NDArray[np.int32], item_of_row: NDArray[np.int32], category_of_item: Ints):
        self.category_of_item = category_of_item
        self.num_categories = int(category_of_item.max(initial=0)) + 1
        self.num_rows = len(user_of_row)
        key = user_of_row.astype(np.int64) * self.num_categories + category_of_item[item_of_row]
        self.rows = np.argsort(key, kind="stable")
        self.sorted_keys = key[self.rows] * self.num_rows + self.rows

    def latest(self, user: NDArray[np.int32], item: Ints, end: Ints, count: int) -> tuple[Ints, Ints]:
        """Rows below `end` of each candidate's user and category, the latest `count` in order; and how many (C)."""
        key = (user.astype(np.int64) * self.num_categories + self.category_of_item[item]) * self.num_rows
        first, last = np.searchsorted(self.sorted_keys, key), np.searchsorted(self.sorted_keys, key + end)
        # An item without a category (index 0) has no history of the same category.
        length = np.where(self.category_of_item[item] == 0, 0, np.minimum(last - first, count))
        return self.rows[ranges(last - length, length)], length


def latest_rows(begin: Ints, end: Ints, count: int) -> tuple[Ints, Ints]:
    """The last `count` rows of every range [begin, end), and their offsets."""
    length = np.minimum(end - begin, count)
    return ranges(end - length, length), offsets_of(length)
