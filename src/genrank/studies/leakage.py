"""What it costs to ignore when actions became known: late likes, and pages that were asked for ahead.

A log without the actions' own times shows a request what its user did only later. Trained on that or not, a ranker is
judged twice: as it is served, on what was known at each request, and as an evaluation says that leaks in the same way.
"""

from genrank.errors import DataError
from genrank.studies.bases import GENRANK, Bases
from genrank.studies.study import Finding, Study, Variant

KNOWN, KNOWN_LEAKING = "known times, as served", "known times, leaking evaluation"
IGNORED, IGNORED_LEAKING = "times ignored, as served", "times ignored, leaking evaluation"
LEAKS = {KNOWN: "none", KNOWN_LEAKING: "evaluation", IGNORED: "training", IGNORED_LEAKING: "both"}


def leakage(bases: Bases) -> Study:
    """One ranker, trained with and without known times, judged as served and by a leaking evaluation."""
    if not bases.spec.known_later:
        raise DataError(
            "study leakage: needs actions that have times of their own, and the data has none; name them in the schema "
            "([columns] known_at, [[tasks]] time, [history] settle) and prepare again"
        )
    return Study(
        name="leakage",
        title="Known times: what an evaluation promises that ignores them, and what is served",
        question="How far is offline AUC from served AUC where history shows actions before they were known?",
        variants=tuple(
            Variant(
                name=name,
                config=bases.recipe(GENRANK, f"leak={leak}"),
                tuned_as="" if name == KNOWN else KNOWN,
            )
            for name, leak in LEAKS.items()
        ),
        baseline=KNOWN,
        findings=(
            _finding(
                "A leaking evaluation promises more than is served, of the ranker that was trained on the leak",
                {IGNORED_LEAKING: 1, IGNORED: -1},
            ),
            _finding(
                "A leaking evaluation prefers the ranker that was trained on the leak",
                {IGNORED_LEAKING: 1, KNOWN_LEAKING: -1},
            ),
            _finding("Served, the ranker that was trained with known times is better", {KNOWN: 1, IGNORED: -1}),
        ),
        notes=("Validation leaks where training does, as it would. Window statistics respect known times throughout.",),
        regimes={},
    )


def _finding(claim: str, contrast: dict[str, float]) -> Finding:
    return Finding(claim=claim, contrast=contrast, paper=False)
