"""The speed of whole training steps: organization × encoding, packed and unpacked requests, fused and plain attention.

Every comparison is with one kind of block at equal width, on the same exposures, in the same rounds. The paper's regime
has `positions` exposures of a user, of which the last request is predicted. HSTU's corner of the 2 × 2 is interleaved
tokens with the learned relative bias; if every exposure is a target it predicts at the item tokens of the history.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from genrank.bench.bench_options import BenchOptions
from genrank.bench.machine import MatrixProducts, Precision, bench_device, settle
from genrank.bench.measure import Figure, Rounds, Work, interleave
from genrank.bench.packing import packed_against_unpacked
from genrank.bench.peak_memory import peak_memory
from genrank.bench.steps import Steps, num_exposures
from genrank.bench.worlds import batches_of, regime
from genrank.models.sequence_config import SequenceRankerConfig
from genrank.training.trainer import TrainingConfig

DEFAULT_MINUTES = 6.0
NUM_BATCHES = 2  # that a measured model trains on in turn

GENRANK, HSTU = "action, genrank", "interleaved, hstu"
CORNERS: Mapping[str, Mapping[str, Any]] = {
    GENRANK: {"organization": "action", "encoding": "genrank"},
    "action, hstu": {"organization": "action", "encoding": "hstu"},
    "interleaved, genrank": {"organization": "interleaved", "encoding": "genrank"},
    HSTU: {"organization": "interleaved", "encoding": "hstu"},
}


def training(options: BenchOptions, say: Callable[[str], None]) -> dict[str, Any]:
    """All figures; ratios are of exposures per second, so above 1 the first of the name is faster."""
    result: dict[str, Any] = {}
    say("organization × encoding")
    result |= two_by_two(options)
    say("every exposure a target")
    result |= all_targets(options)
    say("fused against plain attention")
    result |= fused_against_plain(options)
    say("packed against one request at a time")
    result |= packed_against_unpacked(options, seconds=options.seconds(DEFAULT_MINUTES, 0.25))
    return result


def two_by_two(options: BenchOptions) -> dict[str, Any]:
    """The speeds of the paper's Table 1, and the share of the matrix rate that GenRank's step uses."""
    sizes = options.sizes
    cells = _steps(options, CORNERS, positions=sizes.positions, sequences=sizes.sequences)
    other: Precision = "bf16" if cells[GENRANK].precision == "fp32" else "fp32"
    in_other = _steps(
        options,
        {f"{GENRANK}, {other}": CORNERS[GENRANK]},
        positions=sizes.positions,
        sequences=sizes.sequences,
        training=TrainingConfig(precision=other),
    )
    products = MatrixProducts(sizes.matrix, bench_device())
    rounds = _interleave(cells | in_other, products.work(), options.seconds(DEFAULT_MINUTES, 0.45))
    table = {name: _cell(steps, rounds, name, products) for name, steps in (cells | in_other).items()}
    return {
        "genrank_over_hstu": rounds.ratio(HSTU, GENRANK),
        "organization_alone": rounds.ratio(HSTU, "action, hstu"),
        "encoding_alone": rounds.ratio(HSTU, "interleaved, genrank"),
        "utilisation": table[GENRANK]["utilisation"],
        "utilisation_precision": cells[GENRANK].precision,
        f"{other}_over_{cells[GENRANK].precision}": rounds.ratio(GENRANK, f"{GENRANK}, {other}"),
        "rounds": len(rounds),
        "matrix_rate": products.rates(rounds),
        "cells": table,
    }


def all_targets(options: BenchOptions) -> dict[str, Any]:
    """Both corners if every exposure of the window is predicted: with the same number of tokens for both."""
    sizes = options.sizes
    corners = {name: CORNERS[name] for name in (GENRANK, HSTU)}
    sequences = max(sizes.sequences // 2, 1)  # each has twice the tokens
    cells = _steps(options, corners, positions=sizes.positions, sequences=sequences, every=True)
    products = MatrixProducts(sizes.matrix, bench_device())
    rounds = _interleave(cells, products.work(), options.seconds(DEFAULT_MINUTES, 0.15))
    return {
        "genrank_over_hstu_all_targets": rounds.ratio(HSTU, GENRANK),
        "cells_all_targets": {name: _cell(steps, rounds, name, products) for name, steps in cells.items()},
    }


def fused_against_plain(options: BenchOptions) -> dict[str, Any]:
    """GenRank's step with the backend that `auto` chooses and with plain masked attention, and its peak memory.

    For the narrow model, and for the size's model (`…_wide`), in which matrix products take more time than attention.
    """
    result: dict[str, Any] = {}
    for suffix, narrow in (("", True), ("_wide", False)):
        cells = _attention_steps(options, narrow)
        products = MatrixProducts(options.sizes.matrix, bench_device())
        rounds = _interleave(cells, products.work(), options.seconds(DEFAULT_MINUTES, 0.075))
        memory = peak_memory(_attention_steps, options, narrow)
        result |= {
            f"fused_over_plain{suffix}": rounds.ratio("plain", "auto"),
            f"fused_over_plain_memory{suffix}": memory["auto"] / memory["plain"],
            f"cells_attention{suffix}": {
                name: _cell(steps, rounds, name, products) | {"peak_mib": memory[name] / 2**20}
                for name, steps in cells.items()
            },
        }
    return result


def _attention_steps(options: BenchOptions, narrow: bool) -> dict[str, Steps]:
    sizes, backends = options.sizes, {name: {"attention": name} for name in ("auto", "plain")}
    model = sizes.narrow if narrow else sizes.model
    return _steps(options, backends, positions=sizes.long_positions, sequences=sizes.sequences, model=model)


def _steps(
    options: BenchOptions,
    changes: Mapping[str, Mapping[str, Any]],
    *,
    positions: int,
    sequences: int,
    every: bool = False,
    training: TrainingConfig | None = None,
    model: SequenceRankerConfig | None = None,
) -> dict[str, Steps]:
    """A model in training for each of `changes` to the model (None: the size's), all on the same batches."""
    _, loader = regime(
        positions,
        sequences=sequences,
        num_batches=NUM_BATCHES,
        num_items=options.sizes.items,
        seed=options.seed,
        all_targets=every,
    )
    batches, model = batches_of(loader), model or options.sizes.model
    return {
        name: Steps(replace(model, **change), loader, batches, training=training, seed=options.seed)
        for name, change in changes.items()
    }


def _interleave(cells: Mapping[str, Steps], beside: Mapping[str, Work], seconds: float) -> Rounds:
    return interleave({**cells, **beside}, seconds=seconds, settle=settle)


def _cell(steps: Steps, rounds: Rounds, name: str, products: MatrixProducts) -> dict[str, Any]:
    exposures = num_exposures(steps.batches) / len(steps.batches)
    utilisation: Figure = products.share(rounds, name, steps.flops(), steps.precision)
    return {
        "exposures_per_second": rounds.rate(name, exposures),
        "tokens_per_second": rounds.rate(name, steps.tokens()),
        "step_ms": rounds.seconds(name).times(1e3),
        "utilisation": utilisation,
        "precision": steps.precision,
    }
