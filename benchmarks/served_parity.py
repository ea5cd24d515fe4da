"""AUC of a run's test part through a real service over HTTP, beside `genrank evaluate`; then replays the served log.

    python benchmarks/served_parity.py RUN

Exits with 1 where an AUC differs by more than 1e-4, or a replayed score by more than 1e-5.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from genrank.artifacts.bundle import load_bundle
from genrank.client import Client
from genrank.data.loader import Loader, LoaderConfig
from genrank.data.prepared import PreparedData
from genrank.evaluation.metrics import auc
from genrank.inference.replay import replay
from genrank.runs.evaluate_ranking import evaluation_sequence
from genrank.runs.predict import predict, predictions_of
from genrank.server.parity import serve_part


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_folder", type=Path, metavar="RUN")
    run = parser.parse_args().run_folder
    bundle = load_bundle(run)
    data = PreparedData.load(Path(bundle.config.data))
    builder = data.builder(evaluation_sequence(bundle.config), bundle.config.model.search)
    loader = Loader(builder, data.part(builder, "test"), LoaderConfig(shuffle=False))
    offline = predict(bundle.model(), loader, data)
    with tempfile.TemporaryDirectory() as folder:
        log, stderr = Path(folder) / "served.jsonl", Path(folder) / "stderr"
        began = time.monotonic()
        with stderr.open("wb") as taken:
            command = [sys.executable, "-m", "genrank", "serve", str(run), "--port", "0", "--until"]
            command += [str(data.manifest.split.test_start), "--store", f"{folder}/events", "--log-requests", str(log)]
            service = subprocess.Popen(
                [*command, "--set", "deadline=60.0", "--set", "threads=1"], stderr=taken, env={**os.environ}
            )
        try:
            found = serve_part(Client(_url(service, stderr), timeout=120), data, builder, progress=_progress())
        finally:
            service.terminate()
            service.wait(60)
        seconds = time.monotonic() - began
        again = replay(log, data.folder)
    served = predictions_of(found.rows, found.scores, builder, data)
    assert np.array_equal(served.exposure, offline.exposure)
    worst = 0.0
    for task, scores in offline.scores.items():
        if task in offline.censored:
            continue
        label = offline.labels[task]
        known = ~np.isnan(label)
        ours, theirs = auc(served.scores[task][known], label[known]), auc(scores[known], label[known])
        worst = max(worst, abs(ours - theirs))
        print(f"{task:10} AUC served {ours:.6f}, evaluated {theirs:.6f}, difference {abs(ours - theirs):.1e}")
    print(f"{len(found.durations):,} requests, {len(found.rows):,} exposures in {seconds:.0f} s")
    print(
        f"replayed {again.scores:,} scores: largest difference {again.largest:.1e}, {again.different} rankings differ"
    )
    return int(worst > 1e-4 or again.different > 0)


def _url(service: subprocess.Popen[bytes], stderr: Path) -> str:
    while service.poll() is None:
        for line in stderr.read_text().splitlines():
            if " on http://" in line:
                return line.split(" on ")[1].split(" ")[0]
        time.sleep(0.05)
    raise SystemExit(stderr.read_text())


def _progress():
    shown = [0.0]

    def show(share: float) -> None:
        if share - shown[0] >= 0.1:
            shown[0] = share
            print(f"{share:.0%}", file=sys.stderr, flush=True)

    return show


if __name__ == "__main__":
    sys.exit(main())
