"""What people see of rankings and evaluations in a terminal."""

import io
from typing import Any

import pytest
from rich.console import Console, RenderableType

from genrank.cli.answer_tables import ranking_table
from genrank.evaluation.evaluation_tables import as_retrieval_tables
from genrank.inference.gen_ranker import RankedItem, Ranking
from genrank.text_table import to_rich


def printed(shown: RenderableType) -> str:
    text = io.StringIO()
    Console(file=text, width=150).print(shown)
    return text.getvalue()


@pytest.mark.parametrize("identifier", ["[red]x", "a[b]c", "[/]", "[link=x]y[/link]"])
def test_ids_with_brackets_are_shown_whole(identifier: str) -> None:
    place = RankedItem(item=identifier, value=0.5, scores={"click": 0.5}, known=True)
    ranking = Ranking(
        user=identifier, user_known=True, time=0, num_history=3, places=(place,), model_version="v1", missing_context=()
    )
    assert printed(to_rich(ranking_table(ranking))).count(identifier) == 2


def test_the_last_stage_of_retrieval_is_shown_with_its_intervals() -> None:
    def figures(value: float) -> dict[str, Any]:
        return dict.fromkeys(("hr@10", "ndcg@10", "recall@50", "recall@500", "mrr"), value)

    judged = {
        "retrieval": {"num_targets": 2345, "num_requests": 1000, "hr@10_ci": [0.28, 0.32]},
        "stages": {"popularity": figures(0.1), "generator": figures(0.3)},
        "slices": {"item age": {"older": {**figures(0.2), "num_targets": 1234}}},
        "lists": {"k": 500, "coverage": 0.5, "mean_popularity_percentile": 0.9, "gini": 0.4},
        "repeated_targets": 0.01,
    }
    lines = printed(as_retrieval_tables(judged)).splitlines()
    (popularity,) = [line for line in lines if "popularity " in line and "0.1000" in line]
    (generator,) = [line for line in lines if "generator" in line]
    (older,) = [line for line in lines if "item age: older" in line]
    assert "0.3000 ±0.0200" in generator
    assert generator.count("±") == 1
    assert "±" not in popularity
    assert older.count("0.2000") == 4
    assert "1,234" in older
