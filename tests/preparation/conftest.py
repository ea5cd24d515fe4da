import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The process's Spark, whose partitions are so small that a tiny log has several; skipped without Spark or Java."""
    from genrank.errors import MissingExtraError
    from genrank.preparation.spark_session import open_session

    try:
        scratch: Path = tmp_path_factory.mktemp("spark")
        session, new = open_session(scratch, master="local[2]", memory_limit="1GB", threads=1)
    except MissingExtraError as problem:
        pytest.skip(str(problem))
    assert new
    conf = session.sparkContext._jsc.sc().conf()  # of sessions to come
    conf.set("spark.sql.files.maxPartitionBytes", "4000").set("spark.sql.files.openCostInBytes", "0")
    yield session
    session.stop()


@pytest.fixture
def _collected() -> Iterator[None]:
    """Sockets that pyspark leaves open are closed while the test that opened them ignores that."""
    yield
    gc.collect()
