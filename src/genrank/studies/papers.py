"""The tables and claims of arXiv 2505.04180 (its Table 1, sections 3 and 4) as variants and findings.

Every study takes the recipes of one size with the user's settings; what a variant changes comes on top of them.
"""

from collections.abc import Callable, Mapping

from genrank.errors import DataError
from genrank.studies.bases import Bases
from genrank.studies.study import AS_TRAINED, Finding, Study, Variant

GENRANK, HSTU = "genrank", "hstu"
CORNERS: Mapping[str, tuple[str, str]] = {  # organization, encoding
    GENRANK: ("action", "genrank"),
    "action, hstu bias": ("action", "hstu"),
    "interleaved, genrank biases": ("interleaved", "genrank"),
    "interleaved, hstu bias": ("interleaved", "hstu"),
}
CORNER = "interleaved, hstu bias"
BY_REQUEST = "one request a sample"


def table1(bases: Bases) -> Study:
    """Organization × encoding over one block."""
    return Study(
        name="table1",
        title="Table 1: token organization × position and time biases",
        question="What do action-oriented tokens and GenRank's biases each bring over HSTU's, at equal blocks?",
        variants=tuple(
            Variant(
                name=name,
                config=bases.recipe(GENRANK, f"model.organization={organization}", f"model.encoding={encoding}"),
            )
            for name, (organization, encoding) in CORNERS.items()
        ),
        baseline=CORNER,
        findings=(
            Finding(
                claim="Action-oriented tokens cost no accuracy",
                contrast={"action, hstu bias": 1, CORNER: -1},
                kind="not_below",
                size=-0.0003,
            ),
            Finding(
                claim="GenRank's biases are at least as accurate as HSTU's",
                contrast={"interleaved, genrank biases": 1, CORNER: -1},
                kind="not_below",
                size=0.0009,
            ),
            Finding(
                claim="GenRank is at least as accurate as HSTU's tokens and bias",
                contrast={GENRANK: 1, CORNER: -1},
                kind="not_below",
                size=0.0006,
            ),
            *(
                Finding(
                    claim=f"{claim}, {regime}",
                    contrast={name: 1, CORNER: -1},
                    kind="faster",
                    size=size if regime == BY_REQUEST else None,
                    paper=regime == BY_REQUEST,
                    regime=regime,
                )
                for regime in (BY_REQUEST, AS_TRAINED)
                for name, claim, size in (
                    ("action, hstu bias", "Action-oriented tokens train faster", 1.787),
                    ("interleaved, genrank biases", "GenRank's biases train faster", 1.250),
                    (GENRANK, "GenRank trains faster than HSTU's tokens and bias", 1.948),
                )
            ),
        ),
        regimes={AS_TRAINED: (), BY_REQUEST: ("sequence.grouping=request",)},
        notes=(
            "Speed is of training on this data set's own samples. One request a sample is the paper's regime: the "
            "history is given and only the last few positions are predicted. As trained here, a user's requests are "
            "packed and every exposure is predicted: HSTU's bias lets its own item tokens predict, and both "
            "organizations have two tokens an exposure; interleaved tokens with GenRank's biases need a copy of each "
            "candidate, the third. `genrank bench training` times the paper's 480 positions.",
        ),
    )


def mechanisms(bases: Bases) -> Study:
    """Section 3.1: what is learnt from, what history sees, and in which order samples come."""
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
                claim="Loss on history positions too costs accuracy",
                contrast={"grouped by request": 1, "loss on history too": -1},
                size=0.0100,
            ),
            Finding(
                claim="Causal history is better than fully visible history",
                contrast={"grouped by request": 1, "fully visible history": -1},
                size=0.0015,
            ),
            Finding(
                claim="Pointwise order costs only little",
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
        notes=('"Only a slight fall" is taken as at most 0.002 AUC; the paper gives no figure.',),
    )


def modules(bases: Bases) -> Study:
    """Section 3.2: what SIM, PPNet, PLE and content embeddings bring to both paradigms."""
    search = "hard" if bases.has_categories else "soft"
    changes = {
        "SIM": f"model.search.kind={search}",
        "PPNet": "model.heads.ppnet=true",
        "PLE": "model.heads.kind=ple",
        **({"content": "model.content=on"} if bases.has_content else {}),
    }
    variants, findings = [], []
    for ranker in (GENRANK, "mlp"):
        variants.append(Variant(name=ranker, config=bases.recipe(ranker, "model.content=off")))
        for module, change in changes.items():
            config = bases.recipe(ranker, "model.content=off", change)
            variants.append(Variant(name=f"{ranker} + {module}", config=config, tuned_as=ranker))
    for module in changes:
        gain = {ranker: {f"{ranker} + {module}": 1.0, ranker: -1.0} for ranker in (GENRANK, "mlp")}
        findings += [
            Finding(claim=f"{module} helps the {ranker} ranker", contrast=weights) for ranker, weights in gain.items()
        ]
        times = 2.0 if module == "content" else 1.0
        findings.append(
            Finding(
                claim=f"{module} helps more than twice as much in the generative ranker"
                if module == "content"
                else f"{module} helps both paradigms equally",
                contrast=gain[GENRANK] | {name: -times * weight for name, weight in gain["mlp"].items()},
                kind="above" if module == "content" else "parity",
            )
        )
    notes = [] if bases.has_content else ["The data has no content embeddings, so that row is left out."]
    notes.append(
        f"SIM ({search} search) looks at events before the window only; with a window as long as most histories it has "
        "little to find."
    )
    return Study(
        name="modules",
        title="Section 3.2: modules in the generative and the MLP paradigm",
        question="Do the modules of production rankers help a generative one as they help an MLP?",
        variants=tuple(variants),
        baseline=GENRANK,
        findings=tuple(findings),
        notes=tuple(notes),
    )


def features(bases: Bases) -> Study:
    """Section 3.2: which hand-made features still matter."""
    spec = bases.spec
    if not spec.statistics:
        raise DataError(
            "study features: needs window statistics, and the data has none; "
            "prepare again with --set statistics.enabled=true"
        )
    side = [f.name for f in spec.features if f.name not in ("item_id", "user_id") and f.kind != "embedding"]
    without: dict[str, list[str]] = {"window statistics": ["model.statistics=off"]}
    if bases.has_content:
        without["content embeddings"] = ["model.content=off"]
    without |= {name: [f'model.without=["{name}"]'] for name in side}
    if len(side) > 1:
        names = ", ".join(f'"{name}"' for name in side)
        without["all side features"] = [f"model.without=[{names}]"]
    variants, findings = [], []
    for ranker in (GENRANK, "mlp"):
        variants.append(Variant(name=ranker, config=bases.recipe(ranker)))
        for name, settings in without.items():
            left_out = f"{ranker} - {name}"
            variants.append(Variant(name=left_out, config=bases.recipe(ranker, *settings), tuned_as=ranker))
            matters = {ranker: 1.0, left_out: -1.0}
            if name == "window statistics":
                findings.append(Finding(claim=f"Window statistics still help the {ranker} ranker", contrast=matters))
            elif name != "content embeddings":
                findings.append(
                    Finding(
                        claim=f"Leaving out {name} costs the {ranker} ranker little",
                        contrast=matters,
                        kind="at_most",
                        paper=ranker == GENRANK,
                    )
                )
    return Study(
        name="features",
        title="Section 3.2: hand-made features",
        question="Which features can be left out of a generative ranker, and which of an MLP?",
        variants=tuple(variants),
        baseline=GENRANK,
        findings=tuple(findings),
        notes=('"Little" is taken as at most 0.001 AUC, the difference that the paper calls significant.',),
    )


def biases(bases: Bases) -> Study:
    """Section 3.1: each embedding of equation (1), and ALiBi."""
    without = {
        "no position embedding": ["model.position_embedding=false"],
        "no request index embedding": ["model.request_embedding=false"],
        "no pre-request time embedding": ["model.gap_embedding=false"],
        "no ALiBi": ["model.alibi=none"],
        "neither embeddings nor ALiBi": ["model.encoding=none"],
    }
    other = {"ALiBi by time": ["model.alibi=time"], "ALiBi by position and time": ["model.alibi=both"]}
    base = "genrank (ALiBi by position)"
    return Study(
        name="biases",
        title="Position and time: the three embeddings and ALiBi",
        question="Which of GenRank's cheap biases does the accuracy rest on?",
        variants=(
            Variant(name=base, config=bases.recipe(GENRANK)),
            *(
                Variant(name=name, config=bases.recipe(GENRANK, *settings), tuned_as=base)
                for name, settings in (without | other).items()
            ),
        ),
        baseline=base,
        findings=(
            *(
                Finding(
                    claim=f"Leaving out costs accuracy: {name}",
                    contrast={base: 1, name: -1},
                    paper=name != "neither embeddings nor ALiBi",
                )
                for name in without
            ),
            *(
                Finding(
                    claim=f"{name} is as good as by position", contrast={name: 1, base: -1}, kind="parity", paper=False
                )
                for name in other
            ),
        ),
        notes=("The paper has all three embeddings and ALiBi, and gives no ablation of each; the claims are ours.",),
    )


def cold_start(bases: Bases) -> Study:
    """Gains by the item's age, with and without content embeddings."""
    if not bases.has_content:
        raise DataError(
            "study cold-start: needs content embeddings of items, and the data has none; "
            'give the item a feature of kind "embedding" and prepare again'
        )
    variants = []
    for ranker in (GENRANK, "mlp"):
        variants += [
            Variant(name=f"{ranker} + content", config=bases.recipe(ranker, "model.content=on")),
            Variant(name=ranker, config=bases.recipe(ranker, "model.content=off"), tuned_as=f"{ranker} + content"),
        ]
    gain = {ranker: {f"{ranker} + content": 1.0, ranker: -1.0} for ranker in (GENRANK, "mlp")}
    over_mlp = {f"{GENRANK} + content": 1.0, "mlp + content": -1.0}
    findings = [
        Finding(
            claim=f"Content embeddings help the {ranker} ranker on items of the first day",
            contrast=w,
            slice="first day",
        )
        for ranker, w in gain.items()
    ]
    findings += [
        Finding(
            claim="Content embeddings help the generative ranker more than twice as much",
            contrast=gain[GENRANK] | {name: -2 * weight for name, weight in gain["mlp"].items()},
        ),
        Finding(claim="GenRank beats the MLP on items of the first day", contrast=over_mlp, slice="first day"),
        Finding(claim="GenRank beats the MLP on older items", contrast=over_mlp, slice="older"),
    ]
    return Study(
        name="cold-start",
        title="Cold start: gains by the item's age",
        question="Are the generative ranker's gains largest on new items, and is it the content embeddings that do it?",
        variants=tuple(variants),
        baseline="mlp + content",
        findings=tuple(findings),
        slices=True,
    )


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


STUDIES: Mapping[str, Callable[[Bases], Study]] = {
    "table1": table1,
    "mechanisms": mechanisms,
    "modules": modules,
    "features": features,
    "biases": biases,
    "cold-start": cold_start,
    "overall": overall,
}
