"""The benches in miniature, and the counting, timing and memory that their figures rest on."""

import json
import math
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from amounts import mostly_slow
from forked_commands import FORKS
from genrank.bench import attention_speed
from genrank.bench.attention_speed import growth_exponent
from genrank.bench.bench_options import TINY
from genrank.bench.measure import figure, interleave
from genrank.bench.optimizer import zipf_rows
from genrank.bench.packing import padding
from genrank.bench.peak_memory import peak_memory
from genrank.bench.worlds import batches_of, regime
from genrank.cli import main
from genrank.models.flops import linear_flops, training_flops
from genrank.models.sequence_flops import sequence_attention_flops
from genrank.models.sequence_ranker import SequenceRanker
from zoo import with_copies

FIGURES = {
    "training": (
        "genrank_over_hstu",
        "organization_alone",
        "encoding_alone",
        "genrank_over_hstu_all_targets",
        "packed_over_request",
        "fused_over_plain",
        "utilisation",
    ),
    "data": (
        "prepare_exposures_per_second",
        "loader_exposures_per_second",
        "loader_tokens_per_second",
        "loader_over_step",
    ),
    "optimizer": ("step_over_gather", "sparse_adam_over_gather"),
    "scoring": ("cached_over_uncached", "time_over_matrix_products"),
    "search": ("int8_over_hnsw", "int8_over_ivf", "int8_over_hnsw_single"),
    "decomposed": ("attention_time_ratio", "blocks_time_ratio"),
}


MEASURED: dict[tuple[str, ...], dict[str, Any]] = {}


def bench(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """The result of a bench, measured once for all tests that look at it."""
    if arguments not in MEASURED:
        MEASURED[arguments] = _measured(capsys, *arguments)
    return MEASURED[arguments]


def _measured(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["bench", *arguments, "--size", "tiny", "--json"]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert result["bench"] == arguments[0]
    assert {"processor", "cores", "threads", "memory_gib", "torch", "gpu"} <= set(result["machine"])
    return result


def assert_positive(values: dict[str, float]) -> None:
    for name, value in values.items():
        assert math.isfinite(value), name
        assert value > 0, name


def assert_figures(result: dict[str, Any], *names: str) -> None:
    for name in names:
        assert_positive(result[name])
        assert result[name]["low"] <= result[name]["value"] <= result[name]["high"]


@pytest.fixture
def _forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is measured in a forked process, which begins with torch imported, instead of one that imports it."""
    monkeypatch.setattr("genrank.bench.peak_memory.get_context", lambda _: FORKS)


@pytest.mark.parametrize(
    "name",
    mostly_slow(
        ["data", "optimizer", "scoring", "decomposed", "search"], often=["data", "optimizer", "scoring", "search"]
    ),
)
def test_every_named_figure_is_measured(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert_figures(bench(capsys, name), *FIGURES[name])


@pytest.mark.usefixtures("_forked")
def test_training_measures_its_named_figures_on_equal_losses(capsys: pytest.CaptureFixture[str]) -> None:
    result = bench(capsys, "training")
    assert_figures(result, *FIGURES["training"])
    assert_positive({name: result[name] for name in ("fused_over_plain_memory", "padding_if_padded")})
    assert result["padding"] == 0  # jagged kernels pad nothing
    assert result["padding_if_padded"] < 1
    assert result["loss_difference"] < 1e-5
    assert set(result["cells"]) > {"action, genrank", "interleaved, hstu", "action, hstu", "interleaved, genrank"}
    for cell in result["cells"].values():
        assert_figures(cell, "exposures_per_second", "tokens_per_second", "step_ms", "utilisation")


@pytest.mark.usefixtures("_forked")
@pytest.mark.parametrize("backends", mostly_slow(["quick", "all"], often=["quick"]))
def test_attention_measures_every_backend_that_runs_and_says_why_others_do_not(
    backends: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """quick: without those that are compiled or interpreted before they run."""
    MEASURED.pop(("attention",), None)
    if backends == "quick":
        quick = {name: attention_speed.BACKENDS[name] for name in ("reference", "plain", "fused", "native")}
        monkeypatch.setattr(attention_speed, "BACKENDS", quick)
    result = bench(capsys, "attention")
    on_gpu = torch.cuda.is_available()
    expected = {"plain: history", "plain: candidates", "plain: interleaved, learned bias, silu"}
    assert expected | (set() if on_gpu else {"fused: history", "fused: candidates"}) <= set(result["cells"])
    for name, cell in result["cells"].items():
        assert_figures(cell, "forward_ms", "forward_share", "training_ms", "training_gflops", "first_ms")
        assert cell["peak_mib"] > 0
        assert cell["deviation"] < (0.05 if on_gpu else 1e-4), name
    refused = {(row["backend"], row["case"]): row["reason"] for row in result["skipped"]}
    assert refused["fused", "interleaved, learned bias, silu"]
    assert set(result["memory_exponent"]) == set(result["memory_mib"]) >= {"plain: history"}


def test_scoring_a_cached_history_gives_the_logits_of_the_whole_request(capsys: pytest.CaptureFixture[str]) -> None:
    result = bench(capsys, "scoring")
    assert result["deviation"] < 1e-5
    assert list(result["growth"]) == ["5 over 32", "20 over 32", "20 over 16"]
    for row in result["growth"].values():
        assert_positive({name: row[name] for name in ("p50_ms", "p99_ms", "din_p50_ms", "din_p99_ms", "p99_over_din")})


@pytest.mark.slow
def test_decomposed_attention_gives_what_full_attention_gives_for_less(capsys: pytest.CaptureFixture[str]) -> None:
    result = bench(capsys, "decomposed")
    assert result["deviation"] < 1e-5
    assert result["flops_saved"] == pytest.approx(1 - (8 * 8 + 12 * 9) / 20**2)


def test_search_reaches_the_recall_at_which_it_is_compared(capsys: pytest.CaptureFixture[str]) -> None:
    cells = bench(capsys, "search", "--minutes", "0.02")["cells"]
    assert {"300 int8", "2,000 float32", "2,000 HNSW at 0.99"} <= set(cells)
    for name, cell in cells.items():
        assert cell["recall"] >= (float(name.split(" at ")[1]) if " at " in name else 0.99), name
    assert cells["2,000 float32"]["recall"] == 1


def test_a_retrieval_is_measured_whole_and_in_parts(capsys: pytest.CaptureFixture[str]) -> None:
    cells = bench(capsys, "retrieve", "--minutes", "0.02")["cells"]
    assert list(cells) == ["30 candidates", "60 candidates"]
    for cell in cells.values():
        assert_figures(cell, "encode_ms", "search_ms", "rank_ms")
        assert cell["p99_ms"] >= cell["p50_ms"] > 0


@pytest.mark.slow
def test_serving_answers_every_request_under_load_or_refuses_it(capsys: pytest.CaptureFixture[str]) -> None:
    result = bench(capsys, "serve", "--minutes", "0.05")
    assert_positive({name: result[name] for name in ("requests_per_second", "p50_ms", "p99_ms", "requests")})
    assert result["errors"] == 0
    assert result["overload"]["sent_per_second"] > 0


def test_without_json_there_are_tables_and_the_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "optimizer", "--size", "tiny"]) == 0
    out = capsys.readouterr().out
    assert "step over gather" in out
    assert torch.__version__ in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trainig"], "did you mean 'training'?"),
        (["training", "--size", "smal"], "did you mean 'small'?"),
        (["training", "--minutes", "0"], "must be above 0"),
        (["training", "--minutes", "nan"], "expected a finite number"),
        (["training", "--seed", "-1"], "must be 0 or more"),
    ],
)
def test_bad_values_are_refused_in_one_line(arguments, said, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["bench", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.strip().splitlines()) == 1
    assert said in captured.err


class Clock:
    """Time that passes only when work is done; the machine is slower in some rounds."""

    def __init__(self) -> None:
        self.now, self.order = 0.0, list[str]()

    def work(self, name: str, seconds: float, slowness: list[float]) -> Any:
        slow = iter(slowness)

        def run() -> None:
            self.order.append(name)
            self.now += seconds * next(slow)

        return run


def test_rounds_rotate_and_a_slow_round_does_not_change_the_ratio() -> None:
    clock, slowness = Clock(), [9.0, 1.0, 5.0, 1.0, 50.0]  # the first is the warm-up
    work = {name: clock.work(name, seconds, slowness) for name, seconds in (("a", 1.0), ("b", 2.0), ("c", 3.0))}
    rounds = interleave(work, seconds=1e9, max_rounds=4, clock=lambda: clock.now)
    assert "".join(clock.order) == "abc" + "abc" + "bca" + "cab" + "abc"
    assert list(rounds.taken["b"]) == [2.0, 10.0, 2.0, 100.0]
    assert rounds.ratio("c", "a") == figure([3.0])
    assert rounds.seconds("a").value == 3.0
    assert rounds.rate("a", 6.0).value == pytest.approx(3.6)  # the median of 6, 1.2, 6, 0.12


@pytest.mark.parametrize(("seconds", "expected"), [(0.0, 3), (9.5, 5)])
def test_rounds_stop_when_the_time_is_over_but_not_before_the_least_number(seconds: float, expected: int) -> None:
    clock = Clock()
    work = {name: clock.work(name, 1.0, [1.0] * 100) for name in "ab"}
    assert len(interleave(work, seconds=seconds, clock=lambda: clock.now)) == expected


def test_a_figure_is_median_and_quartiles() -> None:
    assert figure([5.0, 1.0, 3.0, 2.0, 4.0]) == figure([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (figure([1.0, 2.0, 3.0, 4.0, 5.0]).low, figure([1.0, 2.0, 3.0, 4.0, 5.0]).high) == (2.0, 4.0)


def ranker(**changes: Any) -> SequenceRanker:
    """The tiny model over the paper's regime; `batch` gives what it is asked for."""
    world, loader = regime(40, sequences=2, num_batches=1, num_items=50, seed=0)
    return SequenceRanker(replace(TINY.model, **changes), world.spec, max_history=loader.builder.config.max_history)


def batch(*, all_targets: bool = False) -> Any:
    _, loader = regime(40, sequences=2, num_batches=1, num_items=50, seed=0, all_targets=all_targets)
    (only,) = batches_of(loader)
    return only


def test_a_regime_has_exactly_the_positions_that_it_is_asked_for() -> None:
    some, every = batch(), batch(all_targets=True)
    assert np.diff(some.history.offsets).tolist() == [34, 34]
    assert np.diff(some.candidates.offsets).tolist() == [6, 6]
    assert np.diff(every.candidates.offsets).tolist() == [40, 40]
    genrank, hstu = TINY.model, replace(TINY.model, organization="interleaved", encoding="hstu")
    assert (genrank.num_tokens(some), hstu.num_tokens(some)) == (2 * 40, 2 * (68 + 6))
    assert genrank.num_tokens(every) == hstu.num_tokens(every) == 2 * (32 + 40)


def test_attention_is_counted_by_visible_pairs() -> None:
    pair = 4 * TINY.model.width
    history = 2 * sum(range(1, 35))  # each of two users' 34 history tokens sees those before it and itself
    candidates = 2 * 6 * 35
    assert sequence_attention_flops(TINY.model, batch()) == pair * (history + 2 * candidates)
    hstu = replace(TINY.model, organization="interleaved", encoding="hstu")
    items = sum(16 * (i // 8) + 1 for i in range(34))  # an item token sees both tokens of earlier requests' exposures
    actions = sum(2 * i + 2 for i in range(34))
    assert sequence_attention_flops(hstu, batch()) == pair * (2 * (items + actions) + 2 * 2 * 6 * 69)


def test_exposures_that_are_predicted_in_place_are_counted_once() -> None:
    hstu = replace(TINY.model, organization="interleaved", encoding="hstu")
    every = batch(all_targets=True)
    in_place = int((every.candidates.in_history >= 0).sum())
    assert in_place == 2 * 32
    copied = with_copies(hstu)
    seen = 2 * every.candidates.prefix[every.candidates.in_history >= 0] + 1
    more = 4 * hstu.width * int(seen.sum())  # in the first block; in the last one both have all candidates as queries
    assert sequence_attention_flops(copied, every) - sequence_attention_flops(hstu, every) == more


@pytest.mark.parametrize("organization", ["action", "interleaved"])
def test_linear_layers_are_counted_as_pytorch_counts_them(organization: str) -> None:
    model, one = ranker(organization=organization, attention="plain"), batch()
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(one)
    products = counter.get_flop_counts()["Global"]
    expected = products[torch.ops.aten.mm] + products.get(torch.ops.aten.addmm, 0)
    assert linear_flops(model, lambda: model(one)) == expected
    assert training_flops(model, one) == 3 * (expected + model.attention_flops(one))


def test_padding_is_the_share_of_places_without_a_token() -> None:
    assert padding([np.array([4, 4]), np.array([3, 3])]) == 0
    assert padding([np.array([4, 2]), np.array([1, 3])]) == pytest.approx(1 - 10 / 14)
    assert padding([np.array([0, 0])]) == 0


def test_peak_memory_is_each_works_own() -> None:
    works = [(f"{size}", partial(torch.ones, size * 2**18)) for size in (64, 16)]  # MiB of float32
    peaks = peak_memory(dict, works)
    assert peaks["64"] == pytest.approx(64 * 2**20, rel=0.1)
    assert peaks["16"] == pytest.approx(16 * 2**20, rel=0.2)


def test_the_growth_exponent_is_the_power_of_the_length() -> None:
    assert growth_exponent({n: 3.0 * n for n in (256, 512, 1024)}) == pytest.approx(1)
    assert growth_exponent({n: 0.5 * n**2 for n in (256, 512, 4096)}) == pytest.approx(2)


def test_lookups_repeat_as_popular_items_do() -> None:
    rows = zipf_rows(2_000_000, 32_768, seed=0)
    assert 0 <= rows.min() <= rows.max() < 2_000_000
    assert len(np.unique(rows)) == pytest.approx(18_700, rel=0.03)
