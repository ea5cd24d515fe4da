"""The effect of modules, features and content embeddings on the generative and the MLP ranker (section 3.2)."""

from collections.abc import Iterator

from genrank.errors import DataError
from genrank.studies.bases import GENRANK, Bases
from genrank.studies.study import Finding, Study, Variant

SHARE = 0.003  # relative difference of AUC - 0.5: about 0.001 AUC for a model with AUC 0.83


def modules(bases: Bases) -> Study:
    """Section 3.2: the effect of SIM, PPNet, PLE and content embeddings in both paradigms."""
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
                margin=SHARE,
                relative=True,
            )
        )
    notes = [] if bases.has_content else ["The data has no content embeddings, so that row is left out."]
    notes.append(
        f"SIM ({search} search) searches events before the window only, and finds little where the window is as long "
        "as most histories."
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
        notes=('"Little" means at most 0.001 AUC, the difference that the paper calls significant.',),
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
    return Study(
        name="cold-start",
        title="Cold start: gains by the item's age",
        question="Are the generative ranker's gains largest on new items, and are content embeddings the reason?",
        variants=tuple(variants),
        baseline="mlp + content",
        findings=(*_gains_of_content(), *_gains_over_the_mlp()),
        slices=True,
    )


def _gains_of_content() -> Iterator[Finding]:
    gain = {ranker: {f"{ranker} + content": 1.0, ranker: -1.0} for ranker in (GENRANK, "mlp")}
    for ranker, weights in gain.items():
        yield Finding(
            claim=f"Content embeddings help the {ranker} ranker on items of the first day",
            contrast=weights,
            slice="first day",
        )
    for ranker, weights in gain.items():
        yield Finding(
            claim=f"Content embeddings help the {ranker} ranker more on items of the first day than on older ones",
            contrast=weights,
            slice="first day",
            than="older",
            paper=ranker == GENRANK,
        )
    yield Finding(
        claim="Content embeddings help the generative ranker more than twice as much",
        contrast=gain[GENRANK] | {name: -2 * weight for name, weight in gain["mlp"].items()},
        relative=True,
    )


def _gains_over_the_mlp() -> Iterator[Finding]:
    over_mlp = {f"{GENRANK} + content": 1.0, "mlp + content": -1.0}
    yield Finding(
        claim="GenRank's gain over the MLP is larger on items of the first day than on older ones",
        contrast=over_mlp,
        slice="first day",
        than="older",
    )
    yield Finding(claim="GenRank beats the MLP on items of the first day", contrast=over_mlp, slice="first day")
    yield Finding(claim="GenRank beats the MLP on older items", contrast=over_mlp, slice="older")
