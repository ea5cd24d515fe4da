"""Served equals offline where actions become known late, and whatever part of the events the store has archived."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from amounts import examples, mostly_slow
from genrank.artifacts.bundle import load_bundle
from genrank.artifacts.index import load_index
from genrank.cli import main
from genrank.data.request import load_events
from genrank.inference.retrieval_engine import RetrievalEngine, RetrieveRequest, open_index
from genrank.inference.served_statistics import ServedStatistics
from genrank.inference.sqlite_store import SQLiteStore
from genrank.models.ranker import Ranker
from genrank.runs.train import load_run
from served_feed import ServedFeed

LIMITS = given(max_events=st.integers(1, 60))
FEW = examples(6, 3, suppress_health_check=[HealthCheck.function_scoped_fixture])
RANKERS = ("genrank", "hstu", "interleaved", "sim-soft", "hstu-sim", "din")


@pytest.fixture(scope="module")
def served(feed: Path, tmp_path_factory: pytest.TempPathFactory) -> ServedFeed:
    """The simulated log, of which every fifth exposure's actions are known up to two days later."""
    folder = tmp_path_factory.mktemp("late")
    table = pq.read_table(feed / "exposures")
    random = np.random.default_rng(0)
    late = random.random(table.num_rows) < 0.2
    shown_at = table["timestamp"].to_numpy()
    told = shown_at + np.where(late, random.integers(0, 172_800, table.num_rows), 0)
    pq.write_table(table.append_column("told", pa.array(told)), folder / "log.parquet")
    schema = (feed / "schema.toml").read_text(encoding="utf-8").replace("[columns]", '[columns]\nknown_at = "told"')
    for path in feed.iterdir():
        if path.suffix in (".parquet", ".npy"):
            (folder / path.name).write_bytes(path.read_bytes())
    (folder / "schema.toml").write_text(schema + "\n[statistics]\nenabled = true\nwindows = ['1d', 'all']\n")
    arguments = [str(folder / "log.parquet"), "--schema", str(folder / "schema.toml"), "--out", str(folder / "data")]
    assert main(["prepare", *arguments]) == 0
    made = ServedFeed(folder / "data")
    assert made.data.manifest.late_actions > 1000
    return made


def follow(served: ServedFeed, model: Ranker, store: SQLiteStore, judged: dict[int, dict[str, float]]) -> int:
    """Serve the test part with live events and statistics, and compare every score; how many."""
    engine, manifest = served.engine(model, store), served.data.manifest
    statistics = ServedStatistics(
        served.folder, manifest, engine.histories, events=store.snapshot().events, until=served.test_start
    )
    engine.statistics, compared = statistics.answers, 0
    for rows, request in served.requests(model, users=10**6):  # an item's statistics are of everybody
        (found,) = engine.score([request])
        for place, row in enumerate(rows.tolist()):
            for task, score in judged[row].items():
                assert found.scores[task][place] == pytest.approx(score, abs=1e-5, rel=1e-5)
                compared += 1
        statistics.count(store.append(served.events(request.user, rows)))
    return compared


@pytest.mark.parametrize("name", mostly_slow(RANKERS, often=["genrank"]))
def test_rankings_equal_offlines_for_any_limit_of_the_store(name: str, served: ServedFeed) -> None:
    model = served.ranker(name)
    judged = served.judged(model)

    @FEW
    @LIMITS
    def check(max_events: int) -> None:
        assert follow(served, model, SQLiteStore(":memory:", max_events=max_events), judged) > 100

    check()


def test_live_statistics_equal_those_of_the_log(served: ServedFeed) -> None:
    """Of all users: an item's counts are everybody's."""
    model = served.ranker("genrank")
    store = SQLiteStore(":memory:", max_events=20)
    histories = served.histories(store)
    statistics = ServedStatistics(
        served.folder, served.data.manifest, histories, events=store.snapshot().events, until=served.test_start
    )
    compared = 0
    for rows, request in served.requests(model, users=10**6):
        found = statistics.answers(request.user, request.items, request.time)
        np.testing.assert_array_equal(found, served.data.timelines.statistics[rows])
        statistics.count(store.append(served.events(request.user, rows)))
        compared += len(rows)
    assert compared > 500
    assert load_events(served.folder, served.data.manifest, until=served.test_start).time.max() > served.test_start


@pytest.mark.parametrize("max_events", mostly_slow([1, 7, 40], often=[7]))
def test_retrieved_items_equal_offlines_for_any_limit_of_the_store(
    max_events: int, served: ServedFeed, grank_late: Path
) -> None:
    bundle = load_bundle(grank_late)
    config, _ = load_run(grank_late)
    model = bundle.retriever()
    stored = load_index(grank_late / "index", model=bundle.version, width=model.config.width)
    store = SQLiteStore(":memory:", max_events=max_events)
    engines = []
    for histories in (served.histories(None, until=False), served.histories(store)):
        index = open_index(model, stored, histories.catalogue, precision="float32")
        engines.append(RetrievalEngine(model, config.sequence, histories=histories, index=index))
    ranker = served.ranker("genrank")
    compared = 0
    for rows, request in served.requests(ranker, users=20):
        asked = RetrieveRequest(user=request.user, time=request.time, k=50)
        offline, live = (engine.retrieve([asked])[0] for engine in engines)
        assert live.num_history == offline.num_history
        assert live.rows.tolist() == offline.rows.tolist()
        np.testing.assert_allclose(live.scores, offline.scores, atol=1e-5)
        store.append(served.events(request.user, rows))
        compared += 1
    assert compared > 30


@pytest.fixture(scope="module")
def grank_late(served: ServedFeed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from retrievers import trained

    run = trained(served.folder, tmp_path_factory.mktemp("grank") / "run", "--recipe", "grank-small")
    assert main(["index", str(run)]) == 0
    return run
