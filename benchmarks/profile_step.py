"""Where a training step's time goes on this machine: the picture in docs/performance.md.

    python benchmarks/profile_step.py docs/training_step.png

Profiles the steps that `genrank bench training` measures (480 positions a user, the last 15 % of them candidates) and
prints the shares too. Needs matplotlib (pip install 'genrank[report]').
"""

import argparse
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ |= {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "1000"}  # as the command line does

import torch
from torch.profiler import ProfilerActivity, profile

from genrank.bench.bench_options import SIZES
from genrank.bench.steps import Steps
from genrank.bench.training import CORNERS, GENRANK, HSTU
from genrank.bench.worlds import batches_of, regime

# The first group whose words occur in an operator's name takes its time.
GROUPS: Mapping[str, tuple[str, ...]] = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm"),
    "attention": ("_Native", "_scaled_dot_product"),
    "optimizers, clipping": ("Optimizer", "adam", "linalg_vector_norm", "foreach"),
    "dropout": ("_Dropout", "bernoulli"),
    "embeddings": ("embedding", "index", "scatter", "sparse", "coalesce", "repeat_interleave"),
    "norms, activations": ("layer_norm", "gelu", "sigmoid", "silu", "logsigmoid", "softplus"),
    "elementwise, copies": ("add", "mul", "cat", "copy", "sum", "div", "sub", "fill", "zero", "sqrt", "lerp", "pow"),
}
OTHER = "everything else"


def shares(steps: Steps, num_steps: int) -> tuple[dict[str, float], float]:
    """(milliseconds of a step per group, of the whole step), by the operators' own time."""
    steps()
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        for _ in range(num_steps):
            steps()
    spent = dict.fromkeys([*GROUPS, OTHER], 0.0)
    for event in profiled.key_averages():
        group = next((g for g, words in GROUPS.items() if any(word in event.key for word in words)), OTHER)
        spent[group] += event.self_cpu_time_total / 1e3 / num_steps
    return spent, sum(spent.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=4)
    options = parser.parse_args()
    sizes = SIZES["small"]
    cases = {
        "GenRank, width 256, 4 blocks": replace(sizes.model, **CORNERS[GENRANK]),
        "interleaved + learned bias, width 256, 4 blocks": replace(sizes.model, **CORNERS[HSTU]),
        "GenRank, width 64, 2 blocks": replace(sizes.narrow, **CORNERS[GENRANK]),
    }
    table = {}
    for name, model in cases.items():
        _, loader = regime(sizes.positions, sequences=8, num_batches=2, num_items=sizes.items, seed=0)
        spent, total = shares(Steps(model, loader, batches_of(loader)), options.steps)
        table[f"{name}: {total:,.0f} ms"] = {group: time / total for group, time in spent.items()}
        print(f"{name}: {total:.0f} ms;", ", ".join(f"{group} {time / total:.0%}" for group, time in spent.items()))
    draw(table, options.out)


def draw(table: Mapping[str, Mapping[str, float]], out: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 3.2), layout="constrained")
    left = [0.0] * len(table)
    for group in [*GROUPS, OTHER]:
        widths = [100 * row[group] for row in table.values()]
        bars = axes.barh(list(table), widths, left=left, label=group)
        axes.bar_label(bars, [f"{w:.0f}" if w >= 4 else "" for w in widths], label_type="center", fontsize=8)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel(f"% of a training step (8 users with 480 positions), {torch.get_num_threads()} threads")
    axes.legend(ncols=4, fontsize=8, loc="lower center", bbox_to_anchor=(0.4, 1.0), frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(out, dpi=130)


if __name__ == "__main__":
    main()
