"""The ranker learns from what it meets when it serves: the query's best of the whole catalogue."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from genrank.cli import main
from genrank.retrieval import hard_negatives
from genrank.retrieval.hard_negatives import HardNegatives, Seen
from genrank.retrieval.item_vectors import ItemVectors
from genrank.retrieval.retriever import Retriever
from genrank.retrieval.retriever_config import RetrieverConfig
from retrievers import SETTINGS
from worlds import SPEC, tables

MET = 6
TARGETS = torch.tensor([3, 7, 30, 12, 9])


def hard_negatives_of(seen: Seen | None = None, *, shown: int = 30, met: int = MET) -> HardNegatives:
    """Over the items 1 to `shown` of a small world."""
    torch.manual_seed(0)
    config = RetrieverConfig(width=16, num_heads=2, num_blocks=1, embedding_dim=6, hard_from=met, id_dropout=0.5)
    items, _ = tables(1)
    items.train_count[:] = np.arange(31) <= shown
    catalogue = ItemVectors.of(items, np.bincount(TARGETS, minlength=31), torch.device("cpu"))
    return HardNegatives(Retriever(config, SPEC, max_history=8).train(), catalogue, seen)


def queries() -> Tensor:
    return torch.nn.functional.normalize(torch.randn(5, 16, generator=torch.Generator().manual_seed(1)), dim=-1)


@torch.no_grad()
def in_order(hard: HardNegatives, without: list[set[int]]) -> list[list[int]]:
    """Per query all shown items but those, best first, found the plain way."""
    hard.model.eval()
    vectors = hard.model.vectors(hard.catalogue.embedded(hard.model.items, torch.arange(31)))
    hard.model.train()
    rows = set(hard.catalogue.shown.tolist())
    return [
        sorted(rows - left_out, key=lambda row: -float(query @ vectors[row]))
        for query, left_out in zip(queries(), without, strict=True)
    ]


@pytest.mark.parametrize("at_once", [2**22, 5 * 4])  # all items, and four at a time
def test_hard_negatives_are_the_best_of_everything_that_was_shown(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hard_negatives, "SCORES_AT_ONCE", at_once)
    hard = hard_negatives_of(shown=20)
    best = hard(queries(), torch.arange(5), TARGETS)
    expected = in_order(hard, [{target} for target in TARGETS.tolist()])
    assert best.row_PR.tolist() == [rows[:MET] for rows in expected]
    assert not best.hidden_PR.any()
    everything = in_order(hard, [set()] * 5)
    ranks = [rows.index(target) for rows, target in zip(everything, TARGETS.tolist(), strict=True)]
    assert best.is_met_P.tolist() == [rank < MET for rank in ranks]
    assert 0 < sum(best.is_met_P.tolist()) < 5
    assert len(hard.catalogue.trained_J) < MET < len(hard.catalogue.shown) < 30


def test_what_the_user_had_before_is_neither_met_nor_a_negative() -> None:
    had = {0: 3, 1: 11, 2: 4, 3: 5, 4: 6}  # the first target is one that the user had

    def seen(exposure_P: Tensor) -> tuple[Tensor, Tensor]:
        return torch.arange(len(exposure_P)), torch.tensor([had[int(e)] for e in exposure_P])

    hard = hard_negatives_of(seen, met=28)
    best = hard(queries(), torch.arange(5), TARGETS)
    expected = in_order(hard, [{target, had[place]} for place, target in enumerate(TARGETS.tolist())])
    for place, rows in enumerate(expected):
        shown = best.row_PR[place][~best.hidden_PR[place]].tolist()
        assert shown == rows[:28]
    assert best.is_met_P.tolist() == [False, True, True, True, True]


def test_of_a_catalogue_smaller_than_what_is_met_every_target_is_met() -> None:
    hard = hard_negatives_of(met=1000)
    best = hard(queries(), torch.arange(5), TARGETS)
    assert best.is_met_P.all()
    assert best.hidden_PR.sum(1).tolist() == [1] * 5  # the target


def test_a_large_catalogue_is_embedded_every_few_steps_and_searched_from_few_places(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hard_negatives, "ROWS_PER_STEP", 10)
    monkeypatch.setattr(hard_negatives, "SCORES_PER_STEP", 90)
    hard = hard_negatives_of()
    assert (hard.steps_between, hard.places_at_once) == (3, 3)
    found = []
    for step in range(4):
        found.append(hard(queries(), torch.arange(5), TARGETS).row_PR.tolist())
        if step == 1:
            other = HardNegatives(hard.model, hard.catalogue, None)
            other.restore(hard.state())
        if step >= 2:
            assert other(queries(), torch.arange(5), TARGETS).row_PR.tolist() == found[-1]
        with torch.no_grad():
            hard.model.items.project.weight.neg_().roll(1)
            hard.model.items.project.weight.copy_(hard.model.items.project.weight.roll(1, 0))
    assert found[0] == found[1] == found[2] != found[3]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("model.hard_from=31",), "model.hard_from is 31; it must be at most num_candidates, 30"),
        (
            ("model.num_candidates=100000", "model.hard_from=99999"),
            "model.hard_from is 99999; it must be at most the",
        ),
    ],
)
def test_settings_that_cannot_match_serving_are_refused_in_a_line(
    settings: tuple[str, ...], message: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [flag for setting in (*SETTINGS, *settings) for flag in ("--set", setting)]
    assert main(["train", str(data), "--recipe", "grank-small", "--out", str(tmp_path / "run"), *flags]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()
