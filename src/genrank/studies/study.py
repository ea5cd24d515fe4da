"""What a study is: variants to train, and the paper's findings as contrasts between them.

A finding is written so that the paper's claim is a positive figure: "causal history is better than fully visible
history" is causal - full > 0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from genrank.runs.run_config import RunConfig

ClassicalBaseline = Literal["trees", "item_rate", "item_user_rate"]
Claim = Literal["above", "at_most", "parity", "not_below", "faster"]
AS_TRAINED = "as trained"
COUNT_BASED: tuple[ClassicalBaseline, ...] = ("item_user_rate", "item_rate")
MARGIN = 0.001  # an AUC difference that counts as significant in the paper
RANKING = ("auc", "gauc", "neg_logloss")
RETRIEVAL = ("recall@500", "ndcg@10", "hr@10", "recall@50", "mrr")


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A row of the study's table: a run under several seeds, or a classical baseline.

    A variant that is read back from a result has no config.
    """

    name: str
    config: RunConfig | None = None  # seed 0, before the tuned settings; None: `classical`
    classical: ClassicalBaseline | None = None
    axes: Mapping[str, Sequence[str]] = field(default_factory=dict)  # axes that are tuned besides those of the grid
    weakness: str = ""  # why a win over it proves nothing, as "window statistics are off"
    tuned_as: str = ""  # the variant whose tuned settings it takes; empty: it is tuned itself

    def __post_init__(self) -> None:
        if self.config is not None and self.classical is not None:
            raise ValueError(f"variant {self.name!r} has a config and a classical baseline; it needs one of them")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A claim, and the contrast Σ weight · figure of the variants that decides on it.

    above: the contrast is above 0; in the paper it is `size`. parity: it lies within ± margin. not_below: it is above
    -margin. at_most: it is below margin. faster: the first variant's training throughput over the second's (the study's
    baseline) is above 1 in a `regime` of the study. A claim on accuracy is tested on the study's two main figures, AUC
    and GAUC, and must hold for both; `size` is the paper's effect on the first.

    than: a slice whose contrast is subtracted: is the gain larger in `slice` than in `than`? relative: figures are
    compared as log(AUC - 0.5), so that gains are relative to what each model has above chance.
    """

    claim: str  # a sentence
    contrast: Mapping[str, float]
    kind: Claim = "above"
    size: float | None = None  # in the paper
    margin: float = MARGIN
    slice: str = ""  # name of a slice; empty: all exposures
    than: str = ""
    relative: bool = False
    paper: bool = True  # whether the paper claims it
    regime: str = ""


@dataclass(frozen=True, kw_only=True)
class Study:
    """A table of the paper."""

    name: str
    title: str
    question: str
    variants: tuple[Variant, ...]
    baseline: str  # the variant that is subtracted from the others in the table
    metrics: tuple[str, ...] = RANKING  # the figures; the first is the main one, by which variants are tuned
    findings: tuple[Finding, ...] = ()
    slices: bool = False  # whether the table shows slices by the item's age
    notes: tuple[str, ...] = ()  # what the data or the paper leaves open
    axes: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # scaling: axis -> variant -> x
    regimes: Mapping[str, Sequence[str]] = field(
        default_factory=lambda: {AS_TRAINED: ()}
    )  # throughput: name -> settings

    def __post_init__(self) -> None:
        names = [variant.name for variant in self.variants]
        assert len(set(names)) == len(names), names
        assert self.baseline in names
        for finding in self.findings:
            assert set(finding.contrast) <= set(names), finding
            assert finding.kind != "faster" or finding.regime in self.regimes, finding
        for variant in self.variants:
            assert not variant.tuned_as or variant.tuned_as in names, variant

    def variant(self, name: str) -> Variant:
        """The variant of that name."""
        return next(variant for variant in self.variants if variant.name == name)

    def tuner(self, name: str) -> str:
        """The variant whose tuned settings that variant takes: itself, or another."""
        return self.variant(name).tuned_as or name
