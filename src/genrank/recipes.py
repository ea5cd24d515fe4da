"""Named runs. A recipe is a function that returns a RunConfig; `--set path=value` changes single settings.

`-small` is for 100,000 exposures or so: three epochs, the best by validation. Without it, one epoch over a real log.
`-paper` is the setting of arXiv 2505.04180's studies: 3 blocks, 8 heads, width 768, 480 tokens.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

from genrank.config import nearest
from genrank.data.loader import LoaderConfig
from genrank.data.past_search import SearchConfig
from genrank.data.sequence import SequenceConfig
from genrank.errors import ConfigError
from genrank.model_config import ModelConfig
from genrank.models.pointwise_ranker import PointwiseRankerConfig
from genrank.models.sequence_config import SequenceRankerConfig
from genrank.nn.experts import MultiTaskConfig
from genrank.retrieval.retriever_config import RetrieverConfig
from genrank.runs.run_config import RunConfig
from genrank.training.trainer import TrainingConfig

LARGE_SEQUENCE = SequenceRankerConfig(
    width=128, num_blocks=3, num_heads=4, feedforward=512, embedding_dim=64, heads=MultiTaskConfig(tower=128)
)
PAPER_SEQUENCE = SequenceRankerConfig(
    width=768, num_blocks=3, num_heads=8, feedforward=3072, embedding_dim=128, heads=MultiTaskConfig(tower=256)
)
SMALL_RETRIEVER = RetrieverConfig(
    width=64, num_heads=2, num_blocks=2, feedforward=256, num_candidates=500, dropout=0.3, embedding_dropout=0.3
)
LARGE_POINTWISE = PointwiseRankerConfig(width=64, embedding_dim=64, mlp=(512, 256), heads=MultiTaskConfig(tower=128))


def genrank() -> RunConfig:
    """GenRank at width 128, 3 blocks: one epoch over a large log."""
    return _large("genrank", LARGE_SEQUENCE)


def genrank_small() -> RunConfig:
    """GenRank for small logs, at width 64, 2 blocks: about half a minute for ml-100k on two cores."""
    return _small("genrank-small", SequenceRankerConfig(width=64, num_blocks=2))


def genrank_demo() -> RunConfig:
    """GenRank for genrank demo: two epochs over 330,000 exposures, in about a minute on two cores."""
    return RunConfig(
        recipe="genrank-demo",
        sequence=SequenceConfig(max_history=256, grouping="user"),
        loader=LoaderConfig(batch_tokens=2048),
        model=SequenceRankerConfig(width=64, num_blocks=2, id_dropout=0.1),
        training=TrainingConfig(epochs=2, learning_rate=3e-3),
    )


def genrank_paper() -> RunConfig:
    """GenRank in the paper's setting: width 768, grouped by request, 416 of the 480 tokens for history."""
    return _paper("genrank-paper", PAPER_SEQUENCE)


def hstu() -> RunConfig:
    """HSTU at width 128, 3 blocks: items and actions interleaved, learned relative bias, SiLU attention."""
    return _large("hstu", as_hstu(LARGE_SEQUENCE))


def hstu_small() -> RunConfig:
    """HSTU for small logs, at width 64, 2 blocks; its interleaved tokens need some 6,000 steps."""
    return _small("hstu-small", as_hstu(SequenceRankerConfig(width=64, num_blocks=2)))


def hstu_paper() -> RunConfig:
    """HSTU in the paper's setting, over the same exposures as genrank-paper."""
    return _paper("hstu-paper", as_hstu(PAPER_SEQUENCE))


def mlp() -> RunConfig:
    """The baseline of production rankers: mean-pooled history, DCN-v2 crosses and an MLP."""
    return _large("mlp", LARGE_POINTWISE)


def mlp_small() -> RunConfig:
    """The mean-pooling baseline for small logs."""
    return _small("mlp-small", PointwiseRankerConfig())


def din() -> RunConfig:
    """The baseline with DIN: target attention over the history window instead of a mean."""
    return _large("din", replace(LARGE_POINTWISE, pooling="din"))


def din_small() -> RunConfig:
    """DIN for small logs."""
    return _small("din-small", PointwiseRankerConfig(pooling="din"))


def sim() -> RunConfig:
    """SIM: DIN over the latest 64 to 128 exposures, hard search by category over all exposures before them."""
    model = replace(LARGE_POINTWISE, pooling="din", search=SearchConfig(kind="hard"))
    return _large("sim", model, max_history=128)


def sim_small() -> RunConfig:
    """SIM for small logs: DIN over the latest 32 to 64 exposures, hard search before them."""
    return _small("sim-small", PointwiseRankerConfig(pooling="din", search=SearchConfig(kind="hard")), max_history=64)


def grank() -> RunConfig:
    """GRank at the paper's sizes: 4 blocks of width 128 over 64 positives, auxiliary loss, ranker."""
    return RunConfig(
        recipe="grank",
        sequence=SequenceConfig(max_history=64, grouping="user"),
        loader=LoaderConfig(batch_tokens=8192),
        model=RetrieverConfig(),
    )


def grank_small() -> RunConfig:
    """GRank for small logs, at width 64, 2 blocks: several epochs, the best by validation."""
    return RunConfig(
        recipe="grank-small",
        sequence=SequenceConfig(max_history=64, grouping="user"),
        loader=LoaderConfig(batch_tokens=2048),
        model=SMALL_RETRIEVER,
        training=TrainingConfig(epochs=20, patience=4, learning_rate=2e-3, sparse_learning_rate=0.15),
    )


def generator_small() -> RunConfig:
    """GRank's generator alone, for small logs: no auxiliary loss, no ranker."""
    model = replace(SMALL_RETRIEVER, auxiliary=0, ranker=0)
    return replace(grank_small(), recipe="generator-small", model=model)


def dssm_small() -> RunConfig:
    """The two-tower baseline for small logs: an MLP over the user's latest positives."""
    model = replace(SMALL_RETRIEVER, generator="pooled", auxiliary=0, ranker=0)
    return replace(grank_small(), recipe="dssm-small", model=model)


def as_hstu(config: SequenceRankerConfig) -> SequenceRankerConfig:
    """The configuration with HSTU's organization, encoding and block."""
    return replace(config, organization="interleaved", encoding="hstu", block="hstu")


def _small(name: str, model: ModelConfig, *, max_history: int = 256) -> RunConfig:
    return RunConfig(
        recipe=name,
        sequence=SequenceConfig(max_history=max_history, grouping="user"),
        loader=LoaderConfig(batch_tokens=4096),
        model=model,
        training=TrainingConfig(epochs=3, learning_rate=2e-3),
    )


def _large(name: str, model: ModelConfig, *, max_history: int = 256) -> RunConfig:
    return RunConfig(
        recipe=name,
        sequence=SequenceConfig(max_history=max_history, grouping="user"),
        loader=LoaderConfig(batch_tokens=16384),
        model=model,
    )


def _paper(name: str, model: ModelConfig) -> RunConfig:
    return RunConfig(
        recipe=name,
        sequence=SequenceConfig(max_history=416, grouping="request"),
        loader=LoaderConfig(batch_tokens=32768),
        model=model,
    )


RECIPES: Mapping[str, Callable[[], RunConfig]] = {
    "genrank": genrank,
    "genrank-small": genrank_small,
    "genrank-demo": genrank_demo,
    "genrank-paper": genrank_paper,
    "hstu": hstu,
    "hstu-small": hstu_small,
    "hstu-paper": hstu_paper,
    "mlp": mlp,
    "mlp-small": mlp_small,
    "din": din,
    "din-small": din_small,
    "sim": sim,
    "sim-small": sim_small,
    "grank": grank,
    "grank-small": grank_small,
    "generator-small": generator_small,
    "dssm-small": dssm_small,
}


def siblings(name: str) -> list[RunConfig]:
    """The recipes of one family: those with the same beginning of the name, such as genrank and genrank-small."""
    family = name.partition("-")[0]
    return [make() for each, make in RECIPES.items() if each.partition("-")[0] == family]


def recipe(name: str) -> RunConfig:
    """The run of that name. ConfigError with the nearest name if there is none."""
    if name not in RECIPES:
        raise ConfigError(f"--recipe {name}: there is no such recipe; {nearest(name, RECIPES)}")
    return RECIPES[name]()
