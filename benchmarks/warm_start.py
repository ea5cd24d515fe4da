"""One more day: a warm start on that day against training anew on all days, and against leaving the model as it is.

python benchmarks/warm_start.py [--users 500] [--days 10] [--seeds 3] [--recipe genrank-demo]
    [--set loader.batch_tokens=512]

On a simulated feed, in which new items appear every day and interests change. Learned are all days but the last, judged
is the last; the warm start begins from a run that has learned all but the last two. Prints AUC and GAUC of clicks, mean
and standard deviation over seeds, and the processor seconds that learning took (of all threads, so that other programs
on the machine count less).
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import genrank
from genrank.bench.feeds import simulated
from genrank.runs.evaluate_ranking import evaluate_run
from genrank.runs.walk import steps_of
from genrank.simulation import WorldConfig

TASK = "click"
SETTINGS = ("threads=1", "evaluation.num_bootstrap=0")
Figures = tuple[float, float, float]  # AUC, GAUC, seconds


def measured(learn: Callable[[], genrank.Run]) -> tuple[genrank.Run, Figures]:
    """A run, and its figures on the day that it is to be judged on."""
    began = time.process_time()
    run = learn()
    seconds = time.process_time() - began
    row = evaluate_run(run.folder, report=False).tasks[TASK]
    return run, (row["auc"], row["gauc"], seconds)


def seed_figures(data: Path, folder: Path, recipe: str, seed: int, assignments: list[str]) -> dict[str, Figures]:
    """By way of learning, under one seed."""
    last = steps_of(data)[-1]
    before, day, judged = steps_of(data)[-2].learned, last.learned, last.judged

    def learn(name: str, **options: str | genrank.Run) -> tuple[genrank.Run, Figures]:
        settings = [*SETTINGS, *assignments, f"warm_start.new_rows={options.pop('new_rows', 'unknown')}"]
        given = options if "begin_from" in options else options | {"recipe": recipe}
        return measured(
            lambda: genrank.train(data, out=folder / name, seed=seed, settings=settings, test=judged, **given)
        )

    old, stale = learn("old", until=day)
    found = {f"as it was, {before}": stale, "anew on all days": learn("anew", until=judged)[1]}
    for rows in ("unknown", "fresh"):
        name = f"warm start on {day}, new rows {rows}"
        found[name] = learn(f"warm-{rows}", begin_from=old, days=f"{day}..{day}", new_rows=rows)[1]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=500)
    parser.add_argument("--days", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--recipe", default="genrank-demo")
    parser.add_argument("--set", action="append", default=[], dest="assignments", help="a setting, as of genrank train")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        data = simulated(Path(place), WorldConfig(num_users=options.users, num_days=options.days)).folder
        every = [
            seed_figures(data, Path(place) / f"seed{n}", options.recipe, n, options.assignments)
            for n in range(options.seeds)
        ]
    for name in every[0]:
        auc, gauc, seconds = np.array([found[name] for found in every]).T
        print(
            f"{name:48} AUC {auc.mean():.4f} ± {auc.std(ddof=1):.4f}  GAUC {gauc.mean():.4f} ± {gauc.std(ddof=1):.4f}  "
            f"{seconds.mean():.1f} s"
        )


if __name__ == "__main__":
    main()
