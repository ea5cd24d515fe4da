"""The cost of ignoring when actions became known: late likes, and pages that were requested in advance.

In a log without times of actions, a request's history contains actions that came after the request. A ranker is trained
with or without this leak and evaluated twice: as it is served, with what was known at each request, and with the leak.
"""

from genrank.errors import DataError
from genrank.studies.bases import GENRANK, Bases
from genrank.studies.study import Finding, Study, Variant

KNOWN, KNOWN_LEAKING = "known times, as served", "known times, leaking evaluation"
IGNORED, IGNORED_LEAKING = "times ignored, as served", "times ignored, leaking evaluation"
LEAKS = {KNOWN: "none", KNOWN_LEAKING: "evaluation", IGNORED: "training", IGNORED_LEAKING: "both"}


def leakage(bases: Bases) -> Study:
    """One ranker, trained with and without known times, evaluated as served and by a leaking evaluation."""
    if not bases.spec.known_later:
        raise DataError(
            "study leakage: needs actions that become known later than their exposure, and the data has none; give "
            "their times in the schema ([columns] known_at, [[tasks]] time, [history] settle) and prepare again"
        )
    return Study(
        name="leakage",
        title="Known times: AUC by an evaluation that ignores them, and AUC as served",
        question="How far is offline AUC from served AUC if histories contain actions before they were known?",
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
                "Of the ranker that was trained with the leak, a leaking evaluation reports a higher AUC than is "
                "served",
                {IGNORED_LEAKING: 1, IGNORED: -1},
            ),
            _finding(
                "By a leaking evaluation, the ranker that was trained with the leak is better",
                {IGNORED_LEAKING: 1, KNOWN_LEAKING: -1},
            ),
            _finding("As served, the ranker that was trained with known times is better", {KNOWN: 1, IGNORED: -1}),
        ),
        notes=("Where training leaks, validation leaks too. Window statistics respect known times in all variants.",),
        regimes={},
    )


def _finding(claim: str, contrast: dict[str, float]) -> Finding:
    return Finding(claim=claim, contrast=contrast, paper=False)
