"""Which positions have a loss, which history they see, and the order of samples (arXiv 2505.04180, section 3.1)."""

from genrank.studies.bases import GENRANK, Bases
from genrank.studies.study import Finding, Study, Variant


def mechanisms(bases: Bases) -> Study:
    """Section 3.1: which positions have a loss, which history they see, and the order of samples."""
    by_request = "sequence.grouping=request"
    return Study(
        name="mechanisms",
        title="Section 3.1: training mechanisms",
        question="Where does the generative ranker's gain come from: its architecture, or how it is trained?",
        variants=(
            Variant(name="grouped by request", config=bases.recipe(GENRANK, by_request)),
            Variant(
                name="loss on history too",
                config=bases.recipe(GENRANK, by_request, "sequence.loss_on_history=true"),
                tuned_as="grouped by request",
            ),
            Variant(
                name="loss on history, each label once",
                config=bases.recipe(GENRANK, by_request, "sequence.loss_on_history=true", "sequence.labels_once=true"),
                tuned_as="grouped by request",
            ),
            Variant(
                name="fully visible history",
                config=bases.recipe(GENRANK, by_request, "model.history_mask=full"),
                tuned_as="grouped by request",
            ),
            Variant(
                name="pointwise order",
                config=bases.recipe(GENRANK, "sequence.grouping=pointwise"),
                tuned_as="grouped by request",
            ),
            Variant(
                name="packed by user",
                config=bases.recipe(GENRANK, "sequence.grouping=user"),
                tuned_as="grouped by request",
            ),
        ),
        baseline="grouped by request",
        findings=(
            Finding(
                claim="A loss on history positions as well costs accuracy",
                contrast={"grouped by request": 1, "loss on history too": -1},
                size=0.0100,
            ),
            Finding(
                claim="A loss on history costs accuracy where each label is trained on once",
                contrast={"grouped by request": 1, "loss on history, each label once": -1},
                paper=False,
            ),
            Finding(
                claim="Causal history is better than fully visible history",
                contrast={"grouped by request": 1, "fully visible history": -1},
                size=0.0015,
            ),
            Finding(
                claim="Pointwise order costs only a little accuracy",
                contrast={"grouped by request": 1, "pointwise order": -1},
                kind="at_most",
                margin=0.002,
            ),
            Finding(
                claim="Packing a user's requests over one history costs no accuracy",
                contrast={"packed by user": 1, "grouped by request": -1},
                kind="not_below",
                paper=False,
            ),
        ),
        notes=(
            '"Only a little" means at most 0.002 AUC; the paper speaks of a slight fall and gives no figure.',
            "Loss on history: a history position sees the requests before its request, as a candidate does, and not "
            "its request. The difference is how often its label is trained on: in every sample whose window contains "
            "it. The variant with each label once has the same samples, and trains on each label in one of them.",
        ),
    )
