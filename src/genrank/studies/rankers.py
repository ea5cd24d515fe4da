"""All rankers beside one another, and the yardsticks."""

from genrank.studies.bases import GENRANK, HSTU, Bases
from genrank.studies.study import Finding, Study, Variant


def overall(bases: Bases) -> Study:
    """All rankers and the yardsticks."""
    rankers = [GENRANK, HSTU, "mlp", "din", *(["sim"] if bases.has_categories else [])]
    if bases.size == "paper":
        rankers = [GENRANK, HSTU]
    opponents = [name for name in rankers if name != GENRANK]
    return Study(
        name="overall",
        title="All rankers and the classical yardsticks",
        question="Does a generative ranker beat the production rankers and counting on this data?",
        variants=(
            *(Variant(name=name, config=bases.recipe(name)) for name in rankers),
            Variant(name="gradient-boosted trees", yardstick="trees"),
            Variant(name="item rate + user rate", yardstick="item_user_rate"),
            Variant(name="item rate", yardstick="item_rate"),
        ),
        baseline="mlp" if "mlp" in rankers else HSTU,
        findings=(
            *(
                Finding(
                    claim=f"GenRank beats {name.upper()}",
                    contrast={GENRANK: 1, name: -1},
                    size=0.0020 if name != HSTU else 0.0006,
                )
                for name in opponents
            ),
            Finding(
                claim="GenRank's AUC is not below HSTU's by more than 0.001",
                contrast={GENRANK: 1, HSTU: -1},
                kind="not_below",
                size=0.0006,
            ),
            Finding(
                claim="GenRank beats gradient-boosted trees",
                contrast={GENRANK: 1, "gradient-boosted trees": -1},
                paper=False,
            ),
            Finding(
                claim="GenRank beats gradient-boosted trees within users",
                contrast={GENRANK: 1, "gradient-boosted trees": -1},
                metric="gauc",
                paper=False,
            ),
        ),
        notes=(
            "HSTU here has its own SiLU block as well; Table 1 compares over one block.",
            "The trees' grid is 15, 31 and 63 leaves with early stopping; on data without window statistics they know "
            "little, and counting is the yardstick.",
        ),
    )
