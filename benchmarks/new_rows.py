"""How the rows of new items begin in a warm start, judged on clicks of the items that are new on the learned day.

python benchmarks/new_rows.py [--users 500] [--days 10] [--seeds 0 1 2]

On simulated feeds with many new items, whose content determines what users like. A run has learned all days but the
last two; the one before the last is learned by a warm start, the last is judged. Prints the AUC of all clicks and of
those on items whose rows are new, before the day is learned (the learning rates are next to nothing) and after.
"""

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

import genrank
from genrank.artifacts.bundle import load_bundle
from genrank.bench.feeds import simulated
from genrank.data.learned_days import vocabulary_sizes
from genrank.data.pools import StoredPart
from genrank.evaluation.metrics import auc
from genrank.runs.evaluate_ranking import evaluation_sequence, predicted_with_baselines
from genrank.runs.judged_data import judged_stored
from genrank.runs.run_data import evaluation_loading
from genrank.runs.walk import steps_of
from genrank.simulation import WorldConfig

RECIPE = ["loader.batch_tokens=1024", "training.epochs=3"]
STILL = ["training.learning_rate=1e-30", "training.sparse_learning_rate=1e-30"]
Aucs = Mapping[str, float | None]


def aucs(run: genrank.Run, num_known: int) -> Aucs:
    """AUC of clicks on all items, and on those whose rows are new."""
    bundle = load_bundle(run.folder)
    stored = judged_stored(bundle, run.data, run.config)
    part = StoredPart(
        data=stored,
        part="test",
        sequence=evaluation_sequence(run.config),
        search=run.config.model.search,
        loading=evaluation_loading(run.config),
    )
    found, _, _ = predicted_with_baselines(bundle.model(), part)
    is_new = stored.items.features["item_id"][found.item] >= num_known
    label, score = found.labels["click"], found.scores["click"]
    return {"all": auc(score, label), "new": auc(score[is_new], label[is_new])}


def seed_figures(data: Path, folder: Path, seed: int) -> dict[str, Aucs]:
    """By beginning of the rows, before and after the day was learned."""
    last = steps_of(data)[-1]

    def learn(name: str, settings: list[str], **options: str | genrank.Run) -> genrank.Run:
        settings = ["threads=1", *settings]
        return genrank.train(data, out=folder / name, seed=seed, settings=settings, test=last.judged, **options)

    old = learn("old", RECIPE, recipe="genrank-demo", until=last.learned)
    num_known = vocabulary_sizes(load_bundle(old.folder).manifest.spec)["item_id"]
    found = {}
    for rows in ("unknown", "fresh", "content"):
        for when, settings in (("before", STILL), ("after", [])):
            more = [*settings, f"warm_start.new_rows={rows}"]
            run = learn(f"{rows}-{when}", more, begin_from=old, days=f"{last.learned}..{last.learned}")
            found[f"{rows}, {when}"] = aucs(run, num_known)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=500)
    parser.add_argument("--days", type=int, default=10)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    every = []
    with tempfile.TemporaryDirectory() as place:
        for seed in options.seeds:
            world = WorldConfig(
                num_users=options.users,
                num_days=options.days,
                seed=seed,
                num_items=600,
                new_items_per_day=300,
                interest_boost=3.5,
            )
            folder = Path(place) / str(seed)
            every.append(seed_figures(simulated(folder, world).folder, folder / "runs", seed))
    for name in every[0]:
        for items in ("all", "new"):
            values = np.array([found[name][items] for found in every])
            print(f"{name:18} {items}: AUC {values.mean():.4f}  by seed {' '.join(f'{value:.4f}' for value in values)}")


if __name__ == "__main__":
    main()
