"""GRank's ablation (arXiv 2510.15299): auxiliary loss, ranker, sequence length, number of candidates, width."""

from genrank.studies.bases import Bases
from genrank.studies.study import RETRIEVAL, Finding, Study, Variant

WHOLE, PURE, AUXILIARY, RANKER, TOWERS = (
    "GRank", "pure generator", "generator + auxiliary", "generator + ranker", "two towers"
)  # fmt: skip
BARE = ("model.auxiliary=0", "model.ranker=0")
LENGTHS, WIDTHS, CANDIDATES = (8, 16, 32), (16, 32), (50, 100, 200)
ADVANTAGE = 1.3


def grank(bases: Bases) -> Study:
    """The parts one by one, and two towers; then sequence length, the ranker's candidates, embedding size."""
    changes = {
        WHOLE: (),
        AUXILIARY: ("model.ranker=0",),
        RANKER: ("model.auxiliary=0",),
        PURE: BARE,
        TOWERS: (*BARE, "model.generator=pooled"),
        **{f"the last {length} events": (f"sequence.max_history={length}",) for length in LENGTHS},
        **{f"{count} candidates": (f"model.num_candidates={count}",) for count in CANDIDATES},
        **{f"width {width}": (f"model.width={width}", f"model.embedding_dim={width}") for width in WIDTHS},
    }
    own = (WHOLE, PURE, TOWERS)
    return Study(
        name="grank",
        title="GRank: the effect of each part of the retriever",
        question="Does a target-aware auxiliary loss improve the query vector, and a cross-attention ranker the list?",
        variants=tuple(
            Variant(
                name=name,
                config=bases.recipe("grank", *settings),
                tuned_as="" if name in own else PURE if name == AUXILIARY else WHOLE,
            )
            for name, settings in changes.items()
        ),
        baseline=PURE,
        metrics=RETRIEVAL,
        findings=(
            _finding("The auxiliary loss helps the pure generator", {AUXILIARY: 1, PURE: -1}, 0.1768 - 0.1190),
            _finding("The ranker helps the pure generator", {RANKER: 1, PURE: -1}, 0.1363 - 0.1190),
            _finding("The auxiliary loss helps a generator with ranker", {WHOLE: 1, RANKER: -1}, 0.2346 - 0.1363),
            _finding("The ranker helps a generator with auxiliary loss", {WHOLE: 1, AUXILIARY: -1}, 0.2346 - 0.1768),
            _finding("GRank beats two towers", {WHOLE: 1, TOWERS: -1}, 0.2346 - 0.1068),
            _finding("GRank beats two towers by more than 30 %", {WHOLE: 1, TOWERS: -ADVANTAGE}, None),
        ),
        notes=(
            "In the paper's row that is compared here, the auxiliary is also used at inference; here only in training.",
            "Two towers are searched exactly; an approximate index could not be more accurate.",
            "Targets are the positives of the first binary task, or all events of data without tasks. Items that a "
            "user had before are not retrieved.",
        ),
        slices=True,
        regimes={},
    )


def _finding(claim: str, contrast: dict[str, float], size: float | None) -> Finding:
    return Finding(claim=claim, contrast=contrast, size=size)
