"""Each part of GRank on a world that can't be learnt without it."""

from dataclasses import replace

import numpy as np
import pytest

from genrank.retrieval.retriever_config import RetrieverConfig
from planted import found_first, keys_and_answers

CONFIG = RetrieverConfig(
    width=32,
    num_heads=2,
    num_blocks=1,
    feedforward=32,
    embedding_dim=16,
    dropout=0.0,
    id_dropout=0.0,
    auxiliary=0.0,
    num_candidates=30,
    num_hard=16,
)


@pytest.mark.slow
@pytest.mark.parametrize("full_softmax", [50_000, 0])
def test_the_ranker_finds_what_an_event_200_back_decides_and_the_generator_cannot(full_softmax: int) -> None:
    world = keys_and_answers(1600, 210, key_at=np.full(1600, 9), num_noise=20)
    found = found_first(world, replace(CONFIG, full_softmax=full_softmax), window=8, epochs=5)
    assert found["generator"] < 0.3  # one of eight, by chance
    assert found["ranker"] > 0.9
