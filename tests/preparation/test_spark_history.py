"""Histories given as lists, prepared on Spark as on DuckDB."""

from pathlib import Path

import pytest

from both_engines import same
from genrank.preparation.sources.files import files
from published_layouts import write_ebnerd, write_mind

pytestmark = [
    pytest.mark.spark,
    pytest.mark.usefixtures("spark", "_collected"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),  # sockets of pyspark
]


@pytest.mark.spark_all
def test_histories_in_the_rows_of_a_log(tmp_path: Path) -> None:
    found = same(files([write_mind(tmp_path)], schema=tmp_path / "mind.toml"), tmp_path)
    assert found["manifest: source"]["rows"] == 79 + 5  # shown, and clicked before


@pytest.mark.spark_all
def test_histories_in_a_table_of_users(tmp_path: Path) -> None:
    found = same(files([write_ebnerd(tmp_path)], schema=tmp_path / "ebnerd.toml"), tmp_path)
    assert found["manifest: source"]["rows"] == 90 + 4
