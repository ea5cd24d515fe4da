"""Every ranker and every setting on one data set: a table of AUC, GAUC, parameters and time.

    genrank prepare … --out DATA --set statistics.enabled=true
    python benchmarks/settings.py DATA --out RESULTS [--only hstu] [--seeds 0,1,2] [--set training.epochs=2]

Each cell is a run as from the command line and a row in RESULTS/table.jsonl; a cell that is there already is not run
again. The table goes to stdout as Markdown. A setting that the data can't serve is listed with the reason.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from genrank.text_table import TextTable, to_markdown

OFF = ["model.statistics=off"]
HSTU = ["model.organization=interleaved", "model.encoding=hstu", "model.block=hstu"]

# name: (recipe, settings). Window statistics are off but where the name says so.
SETTINGS: dict[str, tuple[str, list[str]]] = {
    "genrank": ("genrank-small", OFF),
    "hstu": ("hstu-small", OFF),
    "mlp": ("mlp-small", OFF),
    "din": ("din-small", OFF),
    "sim": ("sim-small", OFF),
    "genrank + statistics": ("genrank-small", []),
    "hstu + statistics": ("hstu-small", []),
    "mlp + statistics": ("mlp-small", []),
    "din + statistics": ("din-small", []),
    "genrank, interleaved": ("genrank-small", [*OFF, HSTU[0]]),
    "genrank, hstu encoding": ("genrank-small", [*OFF, HSTU[1]]),
    "genrank, hstu block": ("genrank-small", [*OFF, HSTU[2]]),
    "hstu, action tokens": ("hstu-small", [*OFF, "model.organization=action"]),
    "hstu, genrank encoding": ("hstu-small", [*OFF, "model.encoding=genrank"]),
    "hstu, transformer block": ("hstu-small", [*OFF, "model.block=transformer"]),
    "loss on history": ("genrank-small", [*OFF, "sequence.grouping=1d", "sequence.loss_on_history=true"]),
    "grouped by day": ("genrank-small", [*OFF, "sequence.grouping=1d"]),
    "grouped by request": ("genrank-small", [*OFF, "sequence.grouping=request"]),
    "full history mask": ("genrank-small", [*OFF, "sequence.grouping=request", "model.history_mask=full"]),
    "pointwise order": ("genrank-small", [*OFF, "sequence.grouping=pointwise"]),
    "alibi by time": ("genrank-small", [*OFF, "model.alibi=time"]),
    "alibi by both": ("genrank-small", [*OFF, "model.alibi=both"]),
    "no alibi": ("genrank-small", [*OFF, "model.alibi=none"]),
    "no position embedding": ("genrank-small", [*OFF, "model.position_embedding=false"]),
    "no request embedding": ("genrank-small", [*OFF, "model.request_embedding=false"]),
    "no gap embedding": ("genrank-small", [*OFF, "model.gap_embedding=false"]),
    "no encoding": ("genrank-small", [*OFF, "model.encoding=none"]),
    "no attention gate": ("genrank-small", [*OFF, "model.attention_gate=false"]),
    "qk norm": ("genrank-small", [*OFF, "model.qk_norm=true"]),
    "combined actions": ("genrank-small", [*OFF, "model.action_embedding=combination"]),
    "genrank + sim hard": ("genrank-small", [*OFF, "sequence.max_history=64", "model.search.kind=hard"]),
    "genrank + sim soft": ("genrank-small", [*OFF, "sequence.max_history=64", "model.search.kind=soft"]),
    "genrank, window 64": ("genrank-small", [*OFF, "sequence.max_history=64"]),
    "genrank + ppnet": ("genrank-small", [*OFF, "model.heads.ppnet=true"]),
    "genrank + ple": ("genrank-small", [*OFF, "model.heads.kind=ple"]),
    "genrank + mmoe": ("genrank-small", [*OFF, "model.heads.kind=mmoe"]),
    "genrank, no content": ("genrank-small", [*OFF, "model.content=off"]),
    "genrank + position": ("genrank-small", [*OFF, "model.position_feature=true"]),
    "genrank + hour, weekday": ("genrank-small", [*OFF, "model.hour_feature=true", "model.weekday_feature=true"]),
    "mlp + ppnet": ("mlp-small", [*OFF, "model.heads.ppnet=true"]),
    "mlp + ple": ("mlp-small", [*OFF, "model.heads.kind=ple"]),
    "mlp + sim soft": ("mlp-small", [*OFF, "sequence.max_history=64", "model.search.kind=soft"]),
    "mlp, no content": ("mlp-small", [*OFF, "model.content=off"]),
    "duration: regression": ("genrank-small", [*OFF, "model.duration_head=regression"]),
    "duration: wlr": ("genrank-small", [*OFF, "model.duration_head=wlr"]),
    "duration: d2q": ("genrank-small", [*OFF, "model.duration_head=d2q"]),
    "duration: quantile": ("genrank-small", [*OFF, "model.duration_head=quantile"]),
}


def run_cell(data: Path, name: str, seed: int, out: Path, extra: list[str]) -> dict[str, Any]:
    """Train and evaluate one setting; the row of the table."""
    recipe, settings = SETTINGS[name]
    folder = out / f"{''.join(c if c.isalnum() else '-' for c in name)}-{seed}"
    shutil.rmtree(folder, ignore_errors=True)  # of a cell that was interrupted
    arguments = [argument for setting in [*extra, *settings] for argument in ("--set", setting)]
    began = time.monotonic()
    command = ["genrank", "train", str(data), "--recipe", recipe, "--seed", str(seed), "--out", str(folder)]
    trained = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    row: dict[str, Any] = {"name": name, "seed": seed, "recipe": recipe, "settings": [*extra, *settings]}
    if trained.returncode:
        return row | {"failed": trained.stderr.strip().splitlines()[-1]}
    row["seconds"] = round(time.monotonic() - began, 1)
    judged = subprocess.run(["genrank", "evaluate", str(folder), "--json"], capture_output=True, text=True, check=True)
    row["tasks"] = json.loads(judged.stdout)["tasks"]
    row["parameters"] = int(trained.stderr.split(" parameters;")[0].split()[-1].replace(",", ""))
    return row


def print_table(rows: list[dict[str, Any]]) -> None:
    """Mean ± deviation over the seeds, per setting and task."""
    tasks = list(next((row["tasks"] for row in rows if "tasks" in row), {}))
    heads = [f"{task} {metric}" for task in tasks for metric in metrics_of(rows, task)]
    lines = []
    for name in SETTINGS:
        mine = [row for row in rows if row["name"] == name and "tasks" in row]
        for row in rows:
            if row["name"] == name and "failed" in row:
                lines.append([name, row["failed"], *[""] * (len(heads) + 2)])
                break
        if mine:
            cells = [spread([row["tasks"][t][m] for row in mine]) for t in tasks for m in metrics_of(rows, t)]
            seconds = statistics.median(row["seconds"] for row in mine)
            lines.append([name, *cells, f"{mine[0]['parameters']:,}", f"{seconds:.0f}", str(len(mine))])
    table = TextTable(head=["setting", *heads, "parameters", "seconds", "seeds"], rows=lines)
    print("\n".join(to_markdown(table)))


def metrics_of(rows: list[dict[str, Any]], task: str) -> tuple[str, str]:
    """What is printed of a task."""
    figures = next(row["tasks"][task] for row in rows if "tasks" in row)
    return ("auc", "gauc") if "auc" in figures else ("mae", "xauc")


def spread(values: list[float]) -> str:
    """Mean, and the deviation where there are several."""
    mean = f"{statistics.mean(values):.4f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", action="append", choices=SETTINGS, metavar="NAME", help="this setting; repeatable")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--set", dest="extra", action="append", default=[], help="a setting of every cell")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    table = options.out / "table.jsonl"
    rows = [json.loads(line) for line in table.read_text().splitlines()] if table.exists() else []
    for seed in map(int, options.seeds.split(",")):
        for name in options.only or SETTINGS:
            if not any(row["name"] == name and row["seed"] == seed for row in rows):
                rows.append(run_cell(options.data, name, seed, options.out, options.extra))
                with table.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
                print(f"{name}, seed {seed}: {rows[-1].get('failed') or rows[-1]['seconds']}", file=sys.stderr)
    print_table(rows)


if __name__ == "__main__":
    main()
