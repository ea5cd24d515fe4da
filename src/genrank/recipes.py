"""Named runs. A recipe is a function that returns a RunConfig; `--set path=value` changes single settings."""

from collections.abc import Callable, Mapping

from genrank.config import nearest
from genrank.data.loader import LoaderConfig
from genrank.data.sequence import SequenceConfig
from genrank.errors import ConfigError
from genrank.models.sequence_ranker import SequenceRankerConfig
from genrank.runs.config import RunConfig
from genrank.training.trainer import TrainingConfig


def genrank() -> RunConfig:
    """One epoch over a real log: width 128, 3 blocks."""
    return RunConfig(
        recipe="genrank",
        sequence=SequenceConfig(max_history=256, grouping="user"),
        loader=LoaderConfig(batch_tokens=16384),
        model=SequenceRankerConfig(width=128, num_blocks=3, num_heads=4, feedforward=512, tower=128, embedding_dim=64),
    )


def genrank_small() -> RunConfig:
    """Small data, 100,000 exposures or so: three epochs, the best by validation, in about a minute on two cores."""
    return RunConfig(
        recipe="genrank-small",
        sequence=SequenceConfig(max_history=256, grouping="user"),
        loader=LoaderConfig(batch_tokens=4096),
        model=SequenceRankerConfig(width=64, num_blocks=2, num_heads=4, feedforward=256),
        training=TrainingConfig(epochs=3, learning_rate=2e-3),
    )


def genrank_demo() -> RunConfig:
    """Two epochs over the demo's 330,000 exposures, in about a minute on two cores."""
    return RunConfig(
        recipe="genrank-demo",
        sequence=SequenceConfig(max_history=256, grouping="user"),
        loader=LoaderConfig(batch_tokens=2048),
        model=SequenceRankerConfig(width=64, num_blocks=2, num_heads=4, feedforward=256, id_dropout=0.1),
        training=TrainingConfig(epochs=2, learning_rate=3e-3),
    )


RECIPES: Mapping[str, Callable[[], RunConfig]] = {
    "genrank": genrank,
    "genrank-small": genrank_small,
    "genrank-demo": genrank_demo,
}


def recipe(name: str) -> RunConfig:
    """The run of that name. ConfigError names the nearest where there is none."""
    if name not in RECIPES:
        raise ConfigError(f"--recipe {name}: there is no such recipe; {nearest(name, RECIPES)}")
    return RECIPES[name]()
