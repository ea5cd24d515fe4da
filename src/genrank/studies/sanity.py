"""A check of the tests: a recipe is compared with itself many times, without and with an artificial effect.

From a pool of runs of one recipe that differ in their seeds only, two disjoint groups are drawn and compared, many
times. Without an effect, a test at 5 % should find a difference in about 5 % of the comparisons; with `EFFECT` added to
the AUC of one group, in the share that the test's power predicts from the deviation of the pool.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrank.studies.bases import Bases
from genrank.studies.contrasts import both_intervals, paired_test, power
from genrank.studies.study import Study, Variant

NUM_COMPARISONS = 200
GROUP = 5  # seeds on each side
EFFECT = 0.003


def a_a(bases: Bases) -> Study:
    """A recipe against itself."""
    return Study(
        name="a-a",
        title="A/A: a recipe against itself",
        question="How often does a comparison find a difference where there is none, and how often one of 0.003 AUC?",
        variants=(Variant(name="genrank", config=bases.recipe("genrank")),),
        baseline="genrank",
        regimes={},
    )


def compare_with_itself(
    value_N: NDArray[np.float64],
    users_NR: NDArray[np.float64],
    *,
    effects: Sequence[float] = (0.0, EFFECT),
    num_comparisons: int = NUM_COMPARISONS,
    seed: int = 0,
) -> dict[str, Any] | None:
    """Shares of comparisons that find a difference, per artificial effect; None with fewer than 2 runs a side.

    value_N: AUC of N runs; users_NR: their bootstrap replicates. `test`: by the paired t-test over seeds; `verdict`: by
    the interval of seeds and users, which verdicts use.
    """
    size = min(GROUP, len(value_N) // 2)
    if size < 2:
        return None
    random = np.random.default_rng(seed)
    drawn = [random.permutation(len(value_N))[: 2 * size].reshape(2, size) for _ in range(num_comparisons)]
    deviation = float(np.sqrt(2) * value_N.std(ddof=1))
    rows = []
    for effect in effects:
        tests = verdicts = 0
        for one, other in drawn:
            differences = value_N[one] - value_N[other] + effect
            p_value = paired_test(differences)
            tests += p_value is not None and p_value < 0.05
            bounds = both_intervals(differences, users_NR[one].mean(0) - users_NR[other].mean(0))
            verdicts += bounds is not None and not bounds[0] <= 0 <= bounds[1]
        rows.append(
            {
                "effect": effect,
                "test": tests / num_comparisons,
                "verdict": verdicts / num_comparisons,
                "expected": 0.05 if effect == 0 else power(effect, deviation, size),
            }
        )
    return {
        "runs": len(value_N),
        "seeds_a_side": size,
        "comparisons": num_comparisons,
        "deviation_of_a_difference": deviation,
        "rows": rows,
    }
