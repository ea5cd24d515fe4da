"""Retrievers that train in a blink."""

from pathlib import Path

from genrank.cli import main

SETTINGS = (
    "model.width=16",
    "model.num_heads=2",
    "model.num_blocks=1",
    "model.feedforward=16",
    "model.embedding_dim=8",
)
SETTINGS += ("training.epochs=1", "threads=1", "sequence.max_history=16", "model.num_candidates=30", "model.num_hard=8")


def trained(data: Path, out: Path, *arguments: str) -> Path:
    """The folder of a tiny run."""
    flags = [flag for setting in SETTINGS for flag in ("--set", setting)]
    assert main(["train", str(data), "--out", str(out), *flags, *arguments]) == 0
    return out
