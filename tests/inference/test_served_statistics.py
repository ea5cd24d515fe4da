"""The window statistics of a service: what the log has already counts once, and new items count by their features."""

import numpy as np
import pytest

from counted_logs import random_log, schema
from exposure_logs import Prepared, prepare_log
from genrank.data.prepared import PreparedData
from genrank.data.statistics import statistics_columns
from genrank.inference.catalogue import Catalogue, Item
from genrank.inference.histories import Histories
from genrank.inference.pasts import PastInMemory
from genrank.inference.served_statistics import ServedStatistics
from genrank.inference.store import Change, Event


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare_log(tmp_path_factory.mktemp("served"), random_log(3), schema(request=True, gap=60))


@pytest.fixture
def histories(prepared: Prepared) -> Histories:
    data, manifest = PreparedData.load(prepared.folder), prepared.manifest
    return Histories(
        prepared.folder,
        manifest,
        past=PastInMemory(prepared.folder, manifest.spec),
        catalogue=Catalogue(data.items, prepared.folder, manifest),
        users=data.users,
    )


def served(prepared: Prepared, histories: Histories, *events: Event) -> ServedStatistics:
    return ServedStatistics(prepared.folder, prepared.manifest, histories, events=events, until=None)


def logged(prepared: Prepared) -> Event:
    """The last exposure of the log, as if it were sent again with a click."""
    row = max(prepared.rows(), key=lambda row: row["time"])
    return Event(user=row["user"], item=row["item"], time=row["time"], actions={"click": True})


def answers(statistics: ServedStatistics, event: Event, item: str) -> list[float]:
    rows = statistics.histories.catalogue.find([item])
    return statistics.answers(event.user, rows, event.time + 60)[0].tolist()


def test_events_count_once_whether_they_were_stored_before_or_come_later(
    prepared: Prepared, histories: Histories
) -> None:
    known = logged(prepared)
    fresh = Event(user=known.user, item=known.item, time=known.time + 25, actions={"click": True})
    log_only, before, later = (served(prepared, histories, *events) for events in ((), (known, fresh), (known,)))
    assert answers(later, fresh, known.item) == answers(log_only, fresh, known.item)
    later.count([Change(known, None)])
    assert later.live.num_events == 0
    later.count([Change(fresh, None), Change(known, None)])
    assert later.live.num_events == 1
    assert answers(later, fresh, known.item) == answers(before, fresh, known.item)
    assert answers(before, fresh, known.item) != answers(log_only, fresh, known.item)


def test_an_item_that_comes_later_has_the_statistics_of_its_author(prepared: Prepared, histories: Histories) -> None:
    known, statistics = logged(prepared), served(prepared, histories)
    histories.catalogue.put([Item(id="new", features={"author": "a"})])
    of_author = [name.startswith("author_") for name in statistics_columns(prepared.manifest.schema)]
    found, other = (np.array(answers(statistics, known, item))[of_author] for item in ("new", "i0"))
    assert found.tolist() == other.tolist()  # i0 is of author a
    assert found.any()
