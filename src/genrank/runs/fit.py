"""Whether a run fits its data: a run far too large or too short gets a warning that names a recipe that fits.

Measured with ml-100k (80,000 training exposures): din makes 12 steps there and reaches an AUC of .645, below the
count-based baseline; din-small makes 141 and reaches .757. Both bounds are ours.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from genrank.data.batch_plan import SampleSizes
from genrank.runs.run_config import RunConfig
from genrank.schema import DataSpec
from genrank.training.optimizers import split_parameters

MIN_STEPS = 100  # with fewer hardly more than the base rate is learned
MAX_PARAMETERS = 30  # dense ones per exposure; genrank-paper has 300 on ml-100k, genrank-small 2

# Interleaved tokens with HSTU's bias left their plateau near step 6,000 on a simulated log of 20 million exposures, and
# came within .03 AUC of action tokens at its end (hstu-small, batches of 2,048 tokens, 820 to 1,000 exposures a step).
INTERLEAVED_STEPS = 6_000

Siblings = Callable[[str], Sequence[RunConfig]]  # of a recipe's name: the recipes of its family


@dataclass(frozen=True, kw_only=True)
class Extent:
    """The sizes of a run: training exposures, steps, and dense parameters."""

    num_exposures: int
    num_steps: int
    num_parameters: int

    @property
    def problems(self) -> list[str]:
        """What does not fit, as sentences."""
        found = []
        if self.num_steps < MIN_STEPS:
            found.append(f"{self.num_steps:,} training steps are too few ({MIN_STEPS} at least)")
        if self.num_parameters > MAX_PARAMETERS * self.num_exposures:
            found.append(
                f"{self.num_parameters:,} parameters outside the embedding tables are too many for "
                f"{self.num_exposures:,} training exposures (at most {MAX_PARAMETERS} per exposure)"
            )
        return found


def misfit(
    model: nn.Module,
    config: RunConfig,
    spec: DataSpec,
    samples: SampleSizes,
    *,
    num_steps: int,
    siblings: Siblings | None,
) -> str:
    """Why the run doesn't fit its training samples, and the remedy; empty if it fits."""
    num_exposures = samples.num_exposures
    extent = Extent(num_exposures=num_exposures, num_steps=num_steps, num_parameters=num_dense(model))
    if not extent.problems:
        return ""
    sizes = {
        each.recipe: _extent(each, spec, num_exposures, samples.num_tokens)
        for each in (siblings(config.recipe) if siblings else ())
    }
    fitting = {name: size.num_parameters for name, size in sizes.items() if size is not None and not size.problems}
    if config.recipe in fitting:
        remedies = ["the recipe's own settings, without --set, fit"]
    elif fitting:
        remedies = [f"--recipe {max(fitting, key=lambda name: fitting[name])} fits"]
    else:
        remedies = _settings(extent)
    return f"{config.recipe} does not fit this data: {' and '.join(extent.problems)}; {', '.join(remedies)}"


def unfinished(config: RunConfig, *, num_steps: int) -> str:
    """A warning that a run of interleaved tokens has too few steps; empty for other runs."""
    if not config.model.slow_start or num_steps >= INTERLEAVED_STEPS:
        return ""
    return (
        f"interleaved tokens need some {INTERLEAVED_STEPS:,} steps until actions attend to their items, and this run "
        f"has {num_steps:,}: HSTU will not reach its accuracy; --set model.organization=action learns from the start"
    )


def num_dense(model: nn.Module) -> int:
    """Parameters outside the embedding tables."""
    return sum(weight.numel() for weight in split_parameters(model)[0])


def _settings(extent: Extent) -> list[str]:
    short = ["lower loader.batch_tokens or raise training.epochs"] if extent.num_steps < MIN_STEPS else []
    large = extent.num_parameters > MAX_PARAMETERS * extent.num_exposures
    return [*short, *(["lower model.width"] if large else [])]


def _extent(config: RunConfig, spec: DataSpec, num_exposures: int, num_tokens: int) -> Extent | None:
    """About the extent of another recipe on the same samples; None if it can't be built for the data."""
    max_history = config.sequence.max_history
    try:
        config.model.check(spec)
    except ValueError:
        return None
    with torch.device("meta"):
        model = config.model.build(spec, max_history=max_history)
    num_steps = config.training.epochs * math.ceil(num_tokens / config.loader.batch_tokens)
    return Extent(num_exposures=num_exposures, num_steps=num_steps, num_parameters=num_dense(model))
