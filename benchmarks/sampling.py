"""Is a model of a log with a tenth of its negatives calibrated as one of the whole log is?

python benchmarks/sampling.py FEED [--rate 0.1] [--seeds 3] [--recipe genrank-demo]

FEED: a folder that `genrank simulate` wrote. Prints AUC, PCOC and ECE of clicks on the test part, with PCOC's 95 %
interval over users, for the whole log, the sampled one as it is, and the sampled one with `[sampling] negative_rate`.
"""

import argparse
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from rich.console import Console

from genrank.artifacts.bundle import load_bundle
from genrank.config import override
from genrank.data.loader import Loader, LoaderConfig
from genrank.data.prepared import PreparedData
from genrank.evaluation import metrics as m
from genrank.evaluation.bootstrap import user_weights
from genrank.evaluation.predictions import Predictions
from genrank.preparation.prepare import prepare
from genrank.preparation.sources.files import files
from genrank.recipes import recipe
from genrank.runs.predict import predict
from genrank.runs.train import start_run, train

TASK = "click"


def sample(feed: Path, folder: Path, rate: float) -> Path:
    """A copy of the feed in which a share of the negatives was kept."""
    folder.mkdir()
    table = pq.read_table(feed / "exposures")
    keep = (table[TASK].to_numpy() == 1) | (np.random.default_rng(0).random(table.num_rows) < rate)
    pq.write_table(table.filter(keep), folder / "exposures.parquet")
    for path in feed.iterdir():
        if path.is_file():
            shutil.copy(path, folder)
    return folder


def judged(data: Path, run: Path, seed: int, name: str) -> Predictions:
    """The trained model's predictions for the test part."""
    config = override(recipe(name), [f"seed={seed}", "threads=1"])
    start_run(data, config, run)
    train(run, Console(quiet=True), displays=False)
    prepared, model = PreparedData.load(data), load_bundle(run).model()
    builder = prepared.builder(config.sequence, config.model.search)
    return predict(model, Loader(builder, prepared.part(builder, "test"), LoaderConfig(shuffle=False)), prepared)


def row(title: str, p: Predictions) -> str:
    """One line of figures."""
    score, label, weight = p.scores[TASK], p.labels[TASK].astype(np.float64), p.weights[TASK]
    weight = np.ones(len(label)) if weight is None else weight
    drawn = [m.pcoc(score, label, weight * each) for each in user_weights(p.user, 500, 0)]
    low, high = np.quantile([value for value in drawn if value is not None], [0.025, 0.975])
    auc, pcoc, ece = (metric(score, label, weights=weight) for metric in (m.auc, m.pcoc, m.ece))
    return f"{title:24} AUC {auc:.4f}  PCOC {pcoc:.4f} ({low:.4f} to {high:.4f})  ECE {ece:.4f}"


def main() -> None:
    """Prints the figures as they come."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("feed", type=Path)
    parser.add_argument("--rate", type=float, default=0.1)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--recipe", default="genrank-demo")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        kept = sample(args.feed, Path(scratch) / "kept", args.rate)
        logs = {
            "whole log": (args.feed / "exposures", args.feed, []),
            "sampled, not corrected": (kept / "exposures.parquet", kept, []),
            "sampled, corrected": (kept / "exposures.parquet", kept, [f"sampling.negative_rate={args.rate}"]),
        }
        for title, (log, folder, settings) in logs.items():
            data = Path(scratch) / title
            prepare(files([log], schema=folder / "schema.toml").with_settings(settings), out=data)
            for seed in range(args.seeds):
                found = judged(data, Path(scratch) / f"{title} {seed}", seed, args.recipe)
                if title == "sampled, not corrected":  # judged as what it would be taken for: the whole log's
                    weight = np.where(found.labels[TASK] == 0, 1 / args.rate, 1.0)
                    found = replace(found, weights={TASK: weight})
                print(f"seed {seed}  {row(title, found)}", flush=True)


if __name__ == "__main__":
    main()
