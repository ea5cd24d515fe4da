"""Draw how the time of a whole retrieval grows with the candidates of its ranker, and what they bring.

    genrank bench retrieve --json > bench.json
    genrank study grank DATA --out studies
    python benchmarks/retrieval_knee.py bench.json docs/retrieval_knee.png --study studies/grank.json

The left panel is of the bench: P50 and P99, and the medians of the parts. The right one, where a study is given, is of
its variants "N candidates": the mean over seeds of a figure by the number of candidates.
"""

import argparse
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PARTS = {"encode_ms": "encode the history", "search_ms": "search", "rank_ms": "rank"}
CANDIDATES = re.compile(r"(\d+) candidates")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bench", type=Path, help="what `genrank bench retrieve --json` printed")
    parser.add_argument("out", type=Path, help="the picture, .png or .svg")
    parser.add_argument("--study", type=Path, help="grank.json of a study")
    parser.add_argument("--metric", default="recall@500")
    options = parser.parse_args()
    reached = quality(json.loads(options.study.read_text()), options.metric) if options.study else {}
    draw(json.loads(options.bench.read_text())["cells"], reached, options.metric, options.out)


def quality(study: Mapping[str, Any], metric: str) -> dict[int, float]:
    """The metric's mean by number of candidates."""
    reached = {}
    for row in study["rows"]:
        named = CANDIDATES.fullmatch(row["variant"])
        if named:
            reached[int(named[1])] = row["parts"]["all"][metric]["mean"]
    return dict(sorted(reached.items()))


def draw(cells: Mapping[str, Any], reached: Mapping[int, float], metric: str, out: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    counts = [int(CANDIDATES.fullmatch(name)[1]) for name in cells]  # type: ignore[index]
    figure, axes = pyplot.subplots(1, 1 + bool(reached), figsize=(9, 3.4), layout="constrained", squeeze=False)
    time = axes[0][0]
    parts = [[cell[part]["value"] for cell in cells.values()] for part in PARTS]
    time.stackplot(counts, *parts, labels=[f"median: {name}" for name in PARTS.values()], alpha=0.35)
    for key, name in (("p50_ms", "P50, whole call"), ("p99_ms", "P99, whole call")):
        time.plot(counts, [cell[key] for cell in cells.values()], "o-", label=name)
    time.set(xlabel="candidates of the ranker (k1)", ylabel="ms of one retrieval", ylim=(0, None))
    time.legend(fontsize=8, frameon=False)
    if reached:
        axes[0][1].plot(list(reached), list(reached.values()), "o-")
        axes[0][1].set(xlabel="candidates of the ranker (k1)", ylabel=metric)
    for axis in axes[0]:
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(out, dpi=130)


if __name__ == "__main__":
    main()
