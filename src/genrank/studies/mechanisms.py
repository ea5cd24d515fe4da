"""Which positions have a loss, which history they see, and the order of samples (arXiv 2505.04180, section 3.1)."""

from collections.abc import Mapping

from genrank.studies.bases import GENRANK, Bases
from genrank.studies.study import Finding, Study, Variant

BASE = "grouped by request"
BY_REQUEST, LOSS_ON_HISTORY = "sequence.grouping=request", "sequence.loss_on_history=true"
SETTINGS: Mapping[str, tuple[str, ...]] = {  # of GenRank's recipe, by variant
    BASE: (BY_REQUEST,),
    "loss on history too": (BY_REQUEST, LOSS_ON_HISTORY),
    "loss on history, each label once": (BY_REQUEST, LOSS_ON_HISTORY, "sequence.labels_once=true"),
    "fully visible history": (BY_REQUEST, "model.history_mask=full"),
    "pointwise order": ("sequence.grouping=pointwise",),
    "packed by user": ("sequence.grouping=user",),
}
FINDINGS = (
    Finding(
        claim="A loss on history positions as well costs accuracy",
        contrast={BASE: 1, "loss on history too": -1},
        size=0.0100,
    ),
    Finding(
        claim="A loss on history costs accuracy where each label is trained on once",
        contrast={BASE: 1, "loss on history, each label once": -1},
        paper=False,
    ),
    Finding(
        claim="Causal history is better than fully visible history",
        contrast={BASE: 1, "fully visible history": -1},
        size=0.0015,
    ),
    Finding(
        claim="Pointwise order costs only a little accuracy",
        contrast={BASE: 1, "pointwise order": -1},
        kind="at_most",
        margin=0.002,
    ),
    Finding(
        claim="Packing a user's requests over one history costs no accuracy",
        contrast={"packed by user": 1, BASE: -1},
        kind="not_below",
        paper=False,
    ),
)
NOTES = (
    '"Only a little" means at most 0.002 AUC; the paper speaks of a slight fall and gives no figure.',
    "Loss on history: a history position sees the requests before its request, as a candidate does, and not "
    "its request. The difference is how often its label is trained on: in every sample whose window contains "
    "it. The variant with each label once has the same samples, and trains on each label in one of them.",
)


def mechanisms(bases: Bases) -> Study:
    """Section 3.1: which positions have a loss, which history they see, and the order of samples."""
    return Study(
        name="mechanisms",
        title="Section 3.1: training mechanisms",
        question="Where does the generative ranker's gain come from: its architecture, or how it is trained?",
        variants=tuple(
            Variant(name=name, config=bases.recipe(GENRANK, *settings), tuned_as="" if name == BASE else BASE)
            for name, settings in SETTINGS.items()
        ),
        baseline=BASE,
        findings=FINDINGS,
        notes=NOTES,
    )
