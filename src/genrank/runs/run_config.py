"""RunConfig: all settings of a run. A recipe returns one; `--set path=value` changes single settings."""

from dataclasses import dataclass, field
from typing import Literal, cast

from genrank.data.learned_days import LearnedDays
from genrank.data.loader import LoaderConfig
from genrank.data.sequence import SequenceConfig
from genrank.model_config import ModelConfig
from genrank.models.inputs import RankerConfig
from genrank.models.sequence_config import SequenceRankerConfig
from genrank.training.trainer import TrainingConfig

Leak = Literal["none", "training", "evaluation", "both"]
NewRows = Literal["unknown", "fresh", "content"]
LONGEST_PATH = 1000  # letters


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How a run is evaluated."""

    batch_tokens: int = 32768
    num_bootstrap: int = 200  # replicates for intervals, with users resampled
    seed: int = 0

    def __post_init__(self) -> None:
        if self.batch_tokens < 1 or min(self.num_bootstrap, self.seed) < 0:
            raise ValueError("batch_tokens must be at least 1, num_bootstrap and seed 0 or more")


@dataclass(frozen=True, kw_only=True)
class WarmStartConfig:
    """The finished run that a run starts from; see runs/warm_start.py."""

    run: str = ""  # folder of the finished run; empty: random weights
    version: str = ""  # of that run's bundle; filled in as the new run starts
    # Rows of values admitted since. unknown: the row of the unknown value; fresh: random; content: of an item the mean
    # of the rows of similar items by their frozen embeddings, of other values the row of the unknown value.
    new_rows: NewRows = "unknown"


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The settings of a run. Stored, with every default written out, as config.json in the run folder."""

    recipe: str
    seed: int = 0  # of weights, dropout and the order of batches
    threads: int = 0  # CPU threads; 0: as many as there are cores
    train_share: float = 1.0  # share of the users in training; for learning curves
    days: LearnedDays = field(default_factory=LearnedDays)  # parts other than those prepared
    warm_start: WarmStartConfig = field(default_factory=WarmStartConfig)
    device: str = "auto"  # auto: cuda where there is one, else cpu
    sequence: SequenceConfig = field(default_factory=SequenceConfig)
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    model: ModelConfig = field(default_factory=SequenceRankerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    leak: Leak = "none"  # control: where actions count as known at the time of their exposure, however late they came
    value: dict[str, float] = field(default_factory=dict)  # task -> weight in the ranking; empty: 1 for the first task

    def __post_init__(self) -> None:
        if not 0 < self.train_share <= 1:
            raise ValueError(f"train_share is {self.train_share}; it must be above 0 and at most 1")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; it must be 0 or more")
        if self.threads < 0:
            raise ValueError(f"threads is {self.threads}; it must be 0 or more")
        if self.model.retrieves:
            self._check_retrieval(self.training.task_weights or self.value)
        if self.model.packs_requests:
            return
        if self.sequence.loss_on_history:
            raise ValueError(
                "sequence.loss_on_history can't be used with model.history_mask=full, under which history sees its own "
                "labels; set one of them back"
            )
        if self.sequence.grouping not in ("request", "pointwise"):
            raise ValueError(
                "model.history_mask=full lets history see later history, so packed requests would see their own "
                "labels; set sequence.grouping=request"
            )

    @property
    def training_leaks(self) -> bool:
        """Whether training and validation see actions before they were known."""
        return self.leak in ("training", "both")

    @property
    def evaluation_leaks(self) -> bool:
        """Whether the evaluation uses actions that would not be known in serving."""
        return self.leak in ("evaluation", "both")

    @property
    def ranker(self) -> RankerConfig:
        """The configuration of a ranker; ValueError for a retriever."""
        if self.model.retrieves:
            raise ValueError("kind is retrieval, but a ranker is needed; choose a ranker's recipe")
        return cast(RankerConfig, self.model)

    def _check_retrieval(self, ranking_only: object) -> None:
        if ranking_only:
            raise ValueError(
                "value and training.task_weights are settings of rankers; weights of a retriever's losses are "
                "model.auxiliary and model.ranker"
            )
        if self.leak != "none":
            raise ValueError(f"leak={self.leak} is for rankers; a retriever has leak=none only")
        if self.sequence.loss_on_history:
            raise ValueError("sequence.loss_on_history is for rankers; a retriever is trained on every positive anyway")
