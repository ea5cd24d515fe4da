"""Studies of models that train in a blink."""

import json
from pathlib import Path
from typing import Any

from genrank.cli import main

TINY = (
    *("model.width=8", "model.feedforward=16", "model.num_heads=2", "model.num_blocks=1", "model.mlp=[8]"),
    *("model.embedding_dim=4", "training.epochs=1", "sequence.max_history=32", "loader.batch_tokens=1024"),
)


def study(data: Path, out: Path, name: str, *arguments: str) -> dict[str, Any]:
    """The result of `genrank study` on tiny models."""
    settings = [flag for setting in TINY for flag in ("--set", setting)]
    assert main(["study", name, str(data), "--out", str(out), *settings, *arguments]) == 0
    return json.loads((out / f"{name}.json").read_text(encoding="utf-8"))
