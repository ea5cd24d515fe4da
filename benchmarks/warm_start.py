"""One more day: a warm start on that day against training anew on all days, and against leaving the model as it is.

python benchmarks/warm_start.py [--users 1500] [--days 14] [--seeds 0 1 2] [--recipe genrank-demo]
    [--set loader.batch_tokens=512]

On simulated feeds, one for each seed, in which new items appear every day and interests change. Learned are all days
but the last, judged is the last; the warm start begins from a run that has learned all but the last two. Prints AUC,
GAUC and normalised entropy of clicks, mean and standard deviation over seeds, the AUC's distance from training anew for
each seed, and the processor seconds that learning took (of all threads, so that other programs on the machine count
less).
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import genrank
from genrank.bench.feeds import simulated
from genrank.recipes import recipe as recipe_named
from genrank.runs.evaluate_ranking import evaluate_run
from genrank.runs.walk import steps_of
from genrank.simulation import WorldConfig

TASK, METRICS = "click", ("auc", "gauc", "ne")
SETTINGS = ("threads=1", "evaluation.num_bootstrap=0")
ANEW = "anew on all days"


def warm_starts(recipe: str) -> dict[str, tuple[int, list[str]]]:
    """By name the number of last days that a warm start learns, and its settings."""
    config, batch_tokens = recipe_named(recipe).training, recipe_named(recipe).loader.batch_tokens
    rate = f"training.learning_rate={config.learning_rate}"
    history = "sequence.loss_on_history=true"
    return {
        "as by default": (1, []),
        "two epochs": (1, ["training.epochs=2"]),
        "learning rate and epochs of the recipe": (1, [rate, f"training.epochs={config.epochs}"]),
        "a third of its learning rate": (1, [f"training.learning_rate={config.learning_rate / 3}"]),
        "a 30th of its learning rate": (1, [f"training.learning_rate={config.learning_rate / 30}"]),
        "without warm-up": (1, ["training.warmup=0"]),
        "and the two days before": (3, []),
        "batches twice as large": (1, [f"loader.batch_tokens={2 * batch_tokens}"]),
        "loss on the history too": (1, [history]),
        "and at the learning rate of the recipe": (1, [history, rate]),
        "and at a third of it": (1, [history, f"training.learning_rate={config.learning_rate / 3}"]),
        "new rows fresh": (1, ["warm_start.new_rows=fresh"]),
        "new rows by content": (1, ["warm_start.new_rows=content"]),
    }


def measured(learn: Callable[[], genrank.Run]) -> tuple[genrank.Run, list[float]]:
    """A run, its metrics on the day that it is to be judged on, and the processor seconds of learning."""
    began = time.process_time()
    run = learn()
    seconds = time.process_time() - began
    row = evaluate_run(run.folder, report=False).tasks[TASK]
    return run, [*(row[metric] for metric in METRICS), seconds]


def seed_figures(data: Path, folder: Path, recipe: str, seed: int, assignments: list[str]) -> dict[str, list[float]]:
    """By way of learning, under one seed."""
    days, last = [step.learned for step in steps_of(data)], steps_of(data)[-1]

    def learn(name: str, **options: str | genrank.Run | list[str]) -> tuple[genrank.Run, list[float]]:
        settings = [*SETTINGS, *assignments, *options.pop("more", [])]
        given = options if "begin_from" in options else options | {"recipe": recipe}
        return measured(
            lambda: genrank.train(data, out=folder / name, seed=seed, settings=settings, test=last.judged, **given)
        )

    old, stale = learn("old", until=last.learned)
    found = {f"as it was, without {last.learned}": stale, ANEW: learn("anew", until=last.judged)[1]}
    for number, (name, (num_days, settings)) in enumerate(warm_starts(recipe).items()):
        chosen = f"{days[-num_days]}..{last.learned}"
        found[f"warm start: {name}"] = learn(f"warm-{number}", begin_from=old, days=chosen, more=settings)[1]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=1500)
    parser.add_argument("--days", type=int, default=14)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--recipe", default="genrank-demo")
    parser.add_argument("--set", action="append", default=[], dest="assignments", help="a setting, as of genrank train")
    options = parser.parse_args()
    every = []
    with tempfile.TemporaryDirectory() as place:
        for seed in options.seeds:
            folder = Path(place) / str(seed)
            world = WorldConfig(num_users=options.users, num_days=options.days, seed=seed)
            data = simulated(folder, world).folder
            every.append(seed_figures(data, folder / "runs", options.recipe, seed, options.assignments))
    for name in every[0]:
        figures, anew = (np.array([found[way] for found in every]) for way in (name, ANEW))
        deviation = figures.std(0, ddof=1) if len(every) > 1 else np.zeros(figures.shape[1])
        shown = [
            f"{metric.upper()} {mean:.4f} ± {spread:.4f}"
            for metric, mean, spread in zip(METRICS, figures.mean(0), deviation, strict=False)
        ]
        difference = " ".join(f"{value:+.4f}" for value in figures[:, 0] - anew[:, 0])
        print(f"{name:52} {'  '.join(shown)}  AUC - anew: {difference}  {figures[:, -1].mean():.1f} s")


if __name__ == "__main__":
    main()
