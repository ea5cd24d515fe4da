from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from amounts import crossed, examples
from genrank.nn.attention import TIME_BUCKETS, LearnedBias, Queries, Scoring, Tokens, alibi
from genrank.nn.backends import BACKENDS, choose_backend
from genrank.nn.native import library

HEADS, DIM = 2, 8


def offsets(lengths: list[int]) -> torch.Tensor:
    return torch.tensor([0, *lengths]).cumsum(0)


def places(lengths: list[int]) -> torch.Tensor:
    return torch.cat([torch.arange(n) for n in lengths]) if lengths else torch.zeros(0, dtype=torch.long)


def case(lengths: list[int], num_queries: list[int] | None, seed: int) -> tuple[Queries, Tokens]:
    """Context of the given lengths; queries are the context itself where `num_queries` is None."""
    random = torch.Generator().manual_seed(seed)
    position = places(lengths)
    context = Tokens(offsets(lengths), position, position * 90)
    if num_queries is None:
        return Queries(context, position, position * 90 + 90, causal=True), context
    prefix = torch.cat(
        [torch.randint(0, n + 1, (m,), generator=random) for n, m in zip(lengths, num_queries, strict=True)]
    )
    time = prefix * 90 + 5
    return Queries(Tokens(offsets(num_queries), prefix, time), prefix, time + 7), context


def run(
    backend: str, queries: Queries, context: Tokens, by: str, *, weighting: str = "softmax", learned: bool = False
) -> list[torch.Tensor]:
    """Output and all gradients."""
    random = torch.Generator().manual_seed(1)
    num_queries, num_context = len(queries.prefix), len(context.position)

    def tensor(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random, requires_grad=True)

    inputs = [tensor(n, HEADS, DIM) for n in (num_queries, num_context, num_context)]
    own = inputs[1:] if queries.causal else [tensor(num_queries, HEADS, DIM) for _ in range(2)]
    tables = [tensor(6), tensor(TIME_BUCKETS)] if learned else []  # distances beyond the sixth share its entry
    scoring = Scoring(alibi(HEADS, by), weighting, normalizer=50.0)
    bias = LearnedBias(*tables) if learned else None
    out = BACKENDS[backend](queries, context, scoring)(*inputs, *own, bias)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(2))
    leaves = (inputs if queries.causal else inputs + own) + tables
    return [out.detach(), *torch.autograd.grad((out * weights).sum(), leaves, materialize_grads=True)]


KINDS = {
    "plain": ("plain", "softmax", False),
    "fused": ("fused", "softmax", False),
    "native": ("native", "softmax", False),
    "native-learned": ("native", "softmax", True),
    "native-silu": ("native", "silu", False),
    "native-silu-learned": ("native", "silu", True),
    "plain-learned": ("plain", "softmax", True),
    "plain-silu": ("plain", "silu", False),
    "plain-silu-learned": ("plain", "silu", True),
}


@pytest.mark.parametrize(("backend", "weighting", "learned"), KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("by", ["position", "time", "both", "none"])
@examples(20, 6)
@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=4),
    counts=st.lists(st.integers(1, 5), min_size=4, max_size=4),
    causal=st.booleans(),
    seed=st.integers(0, 99),
)
def test_every_backend_equals_the_reference_forward_and_backward(
    backend, weighting, learned, by, lengths, counts, causal, seed
) -> None:
    if causal and sum(lengths) == 0:
        lengths = [*lengths, 1]
    queries, context = case(lengths, None if causal else counts[: len(lengths)], seed)
    kind = {"weighting": weighting, "learned": learned}
    expected = run("reference", queries, context, by, **kind)
    for ours, reference in zip(run(backend, queries, context, by, **kind), expected, strict=True):
        torch.testing.assert_close(ours, reference, atol=5e-6, rtol=1e-4)


@pytest.mark.parametrize(("backend", "weighting", "learned"), KINDS.values(), ids=KINDS)
def test_a_very_long_history_beside_an_empty_one_equals_the_reference(backend, weighting, learned) -> None:
    queries, context = case([700, 0, 3], [2, 1, 2], 0)
    kind = {"weighting": weighting, "learned": learned}
    expected = run("reference", queries, context, "position", **kind)
    for ours, reference in zip(run(backend, queries, context, "position", **kind), expected, strict=True):
        torch.testing.assert_close(ours, reference, atol=2e-5, rtol=1e-4)


def test_a_query_without_a_prefix_sees_itself_only() -> None:
    queries, context = case([4], [1], 0)
    queries = Queries(queries.tokens, torch.zeros(1, dtype=torch.long), queries.next_time)
    own_v = torch.randn(1, HEADS, DIM)
    for backend in ("reference", "plain", "fused", "native"):
        out = BACKENDS[backend](queries, context, Scoring(alibi(HEADS, "position")))(
            torch.randn(1, HEADS, DIM), torch.randn(4, HEADS, DIM), torch.randn(4, HEADS, DIM), own_v, own_v
        )
        torch.testing.assert_close(out, own_v)


def test_half_of_the_heads_are_biased_by_time_when_both_are_asked_for() -> None:
    bias = alibi(4, "both")
    assert [slope > 0 for slope in bias.position_slopes] == [True, False, True, False]
    assert [slope > 0 for slope in bias.time_slopes] == [False, True, False, True]


def test_a_backend_is_chosen_where_it_can_run_and_refused_elsewhere(monkeypatch) -> None:
    monkeypatch.setattr("genrank.nn.backends.failure", lambda *_, **__: "")  # there is no GPU to check one on
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert choose_backend("auto", cpu, fusible=False, channels=16) == "native"
    assert choose_backend("auto", cuda, fusible=True, channels=16) == "triton"
    assert choose_backend("auto", cuda, fusible=True, channels=192) == "plain"
    for name, device, reason in (
        ("fused", cuda, "runs on CPU"),
        ("native", cuda, "runs on CPU"),
        ("fused", cpu, "neither SiLU nor a learned bias"),
        ("flex", cpu, "trains on CUDA only"),
    ):
        with pytest.raises(ValueError, match=reason):
            choose_backend(name, device, fusible=False, channels=16)


def test_without_a_compiler_pytorch_computes_instead_and_the_log_says_why(monkeypatch, caplog) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr("genrank.nn.backends.load", library.load.__wrapped__)
    cpu = torch.device("cpu")
    assert choose_backend("auto", cpu, fusible=True, channels=16) == "fused"
    assert choose_backend("auto", cpu, fusible=False, channels=16) == "plain"
    assert "no C++ compiler found" in caplog.text
    with pytest.raises(ValueError, match="needs a C"):
        choose_backend("native", cpu, fusible=True, channels=16)


DECADE = 315_576_000  # seconds


def decades_apart(lengths: list[int], num_queries: list[int] | None, years: list[int], seed: int):
    """A case with sequences in the given decades since 1970, and queries up to two decades after their context."""
    queries, context = case(lengths, num_queries, seed)
    begin = torch.tensor(years) * DECADE
    behind = (
        0
        if queries.causal
        else torch.randint(0, 2 * DECADE, (len(queries.prefix),), generator=torch.Generator().manual_seed(seed))
    )
    of_query, of_key = (torch.repeat_interleave(begin, each.offsets.diff()) for each in (queries.tokens, context))
    context = replace(context, time=context.time + of_key)
    time, following = queries.tokens.time + of_query + behind, queries.next_time + of_query + behind
    return replace(queries, tokens=replace(queries.tokens, time=time), next_time=following), context


@pytest.mark.parametrize(
    ("backend", "kind"), crossed(["plain", "fused", "native", "triton"], ["learned", "softmax", "silu-learned"])
)
@examples(16, 5)
@given(
    lengths=st.lists(st.integers(0, 6), min_size=1, max_size=3),
    counts=st.lists(st.integers(1, 3), min_size=3, max_size=3),
    years=st.lists(st.integers(0, 5), min_size=3, max_size=3),
    causal=st.booleans(),
    by=st.sampled_from(["time", "both", "none"]),
    seed=st.integers(0, 99),
)
def test_every_backend_equals_the_reference_on_times_decades_apart(
    backend, kind, lengths, counts, years, causal, by, seed
) -> None:
    """Alone and among others, and where there is no context at all."""
    weighting, learned = ("silu" if "silu" in kind else "softmax"), "learned" in kind
    if backend == "fused" and learned:
        pytest.skip("fused has softmax without learned bias only")
    if causal and sum(lengths) == 0:
        lengths = [*lengths[:2], 1]
    size = len(lengths)
    queries, context = decades_apart(lengths, None if causal else counts[:size], years[:size], seed)
    expected = run("reference", queries, context, by, weighting=weighting, learned=learned)
    found = run(backend, queries, context, by, weighting=weighting, learned=learned)
    for ours, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, reference, atol=2e-5, rtol=1e-4)
