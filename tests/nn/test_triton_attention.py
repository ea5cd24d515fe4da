"""The Triton kernels against the reference: in Triton's interpreter, or on the GPU where there is one."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

import pytest
import torch

from amounts import crossed
from genrank.nn import triton_attention
from genrank.nn.attention import (
    TIME_BUCKETS,
    Attention,
    LearnedBias,
    Queries,
    ReferenceAttention,
    Scoring,
    Tokens,
    alibi,
)
from genrank.nn.triton_attention import TritonAttention

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is first imported
triton = pytest.importorskip("triton")
if not torch.cuda.is_available() and isinstance(triton.language.sum, triton.JITFunction):
    pytest.skip("Triton was imported before TRITON_INTERPRET was set", allow_module_level=True)

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
HEADS, POSITIONS = 2, 12  # farther positions share the table's last entry
pytestmark = [
    pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning"),  # the interpreter's sigmoid, as it should
    *([pytest.mark.gpu] if DEVICE.type == "cuda" else []),
]


@dataclass
class Problem:
    """Everything a backend is given. `leaves` require gradients; the context's keys are the queries' own if causal."""

    queries: Queries
    context: Tokens
    scoring: Scoring
    leaves: dict[str, torch.Tensor]

    def run(self, backend: type[Attention]) -> list[torch.Tensor]:
        """The output and every leaf's gradient."""
        x = self.leaves
        learned = LearnedBias(x["position"], x["time"]) if "position" in x else None
        own_k, own_v = x.get("own_k", x["k"]), x.get("own_v", x["v"])
        out = backend(self.queries, self.context, self.scoring)(x["q"], x["k"], x["v"], own_k, own_v, learned)
        weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(2)).to(out)
        return [out.detach(), *torch.autograd.grad(out, list(x.values()), weights, materialize_grads=True)]


def offsets(lengths: list[int]) -> torch.Tensor:
    return torch.tensor([0, *lengths]).cumsum(0)


def history(lengths: list[int], random: torch.Generator) -> Tokens:
    position = torch.cat([torch.arange(n) for n in lengths])
    time = [torch.randint(0, 200_000, (n,), generator=random).sort().values for n in lengths]
    return Tokens(offsets(lengths), position, torch.cat(time) + 1_700_000_000)


def candidates(context: Tokens, num_queries: list[int], random: torch.Generator) -> Queries:
    """Of each sequence so many, in order of their prefixes; the last two change places."""
    lengths = context.offsets.diff().tolist()
    prefixes = [
        torch.randint(0, n + 1, (m,), generator=random).sort().values for n, m in zip(lengths, num_queries, strict=True)
    ]
    prefix = torch.cat([torch.cat([p[:-2], p[-2:].flip(0)]) for p in prefixes])
    time = torch.full_like(prefix, 1_700_200_000) + torch.randint(0, 999, prefix.shape, generator=random)
    return Queries(Tokens(offsets(num_queries), prefix, time), prefix, time + 7)


def problem(
    lengths: list[int],
    num_queries: list[int] | None,
    *,
    by: str = "position",
    weighting: str = "softmax",
    learned: bool = False,
    channels: int = 16,
    dtype: torch.dtype = torch.float32,
) -> Problem:
    """Queries are the context itself where `num_queries` is None."""
    random = torch.Generator().manual_seed(sum(lengths))
    context = history(lengths, random)
    if num_queries is None:
        queries = Queries(context, context.position, context.time + 30, causal=True)
    else:
        queries = candidates(context, num_queries, random)
    rows = {"q": len(queries.prefix), "k": len(context.position), "v": len(context.position)}
    if not queries.causal:
        rows |= {"own_k": len(queries.prefix), "own_v": len(queries.prefix)}
    leaves = {name: torch.randn(n, HEADS, channels, generator=random).to(dtype) for name, n in rows.items()}
    if learned:
        leaves["position"] = torch.randn(POSITIONS, generator=random)
        leaves["time"] = torch.randn(TIME_BUCKETS, generator=random)
    scoring = Scoring(alibi(HEADS, by), weighting, normalizer=20.0)
    return Problem(queries, context, scoring, {name: leaf.requires_grad_() for name, leaf in leaves.items()})


def on_device(case: Problem) -> Problem:
    def moved(tokens: Tokens) -> Tokens:
        return Tokens(tokens.offsets.to(DEVICE), tokens.position.to(DEVICE), tokens.time.to(DEVICE))

    queries = replace(
        case.queries,
        tokens=moved(case.queries.tokens),
        prefix=case.queries.prefix.to(DEVICE),
        next_time=case.queries.next_time.to(DEVICE),
    )
    leaves = {name: leaf.detach().to(DEVICE).requires_grad_() for name, leaf in case.leaves.items()}
    return Problem(queries, moved(case.context), case.scoring, leaves)


def check(case: Problem, *, atol: float = 1e-5, rtol: float = 1e-4) -> None:
    expected = case.run(ReferenceAttention)
    for ours, reference in zip(on_device(case).run(TritonAttention), expected, strict=True):
        torch.testing.assert_close(ours.cpu(), reference, atol=atol, rtol=rtol)


@pytest.fixture
def _deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


KINDS = list(product(["softmax", "silu"], [False, True], [None, [3, 1]]))  # weighting, learned bias, queries


@pytest.mark.parametrize(("kind", "by"), crossed(KINDS, ["position", "time", "both", "none"]))
def test_every_weighting_and_bias_equals_the_reference_forward_and_backward(kind, by) -> None:
    weighting, learned, num_queries = kind
    check(problem([34, 3], num_queries, by=by, weighting=weighting, learned=learned))


@pytest.mark.parametrize("channels", [8, 32, 40, 96])
def test_heads_of_any_size_equal_the_reference(channels) -> None:
    check(problem([21, 5], [18, 2], channels=channels))


@pytest.mark.parametrize(("weighting", "learned"), [("softmax", False), ("silu", True)])
def test_bf16_is_near_the_reference(weighting, learned) -> None:
    case = problem([21, 5], [18, 2], by="both", weighting=weighting, learned=learned, channels=32, dtype=torch.bfloat16)
    check(case, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("num_queries", [None, [40, 1, 1]], ids=["history", "candidates"])
def test_a_long_history_beside_an_empty_one_equals_the_reference(num_queries) -> None:
    check(problem([150, 0, 1], num_queries), atol=2e-5)  # a block holds up to 128 tokens


def test_a_sequence_without_queries_has_no_gradient() -> None:
    case = problem([20, 30], [0, 3])
    check(case)
    _, _, d_k, *_ = on_device(case).run(TritonAttention)
    assert not d_k[:20].any()


def test_no_context_at_all_leaves_each_query_its_own_value() -> None:
    case = problem([0, 0], [1, 2])
    check(case)
    torch.testing.assert_close(on_device(case).run(TritonAttention)[0].cpu(), case.leaves["own_v"].detach())


def test_no_query_at_all_gives_an_empty_output_and_no_gradient() -> None:
    out, *gradients = on_device(problem([3, 2], [0, 0], learned=True)).run(TritonAttention)
    assert len(out) == 0
    assert not any(gradient.any() for gradient in gradients)


def test_a_fully_visible_history_equals_the_reference() -> None:
    case = problem([18, 35], None, by="both", learned=True)
    whole = torch.repeat_interleave(case.context.offsets.diff(), case.context.offsets.diff())
    case.queries = replace(case.queries, prefix=whole, sees_itself=False, causal=False)
    check(case)


def test_items_and_actions_by_turns_equal_the_reference() -> None:
    case = problem([20, 16], [20, 16], weighting="silu", learned=True)
    index = case.context.position
    prefix = torch.where(index % 2 == 0, index // 6 * 6, index)  # three items a request
    case.queries = Queries(Tokens(case.context.offsets, prefix, case.context.time), prefix, case.context.time + 9)
    check(case)


@pytest.mark.parametrize("num_queries", [None, [9, 3]], ids=["history", "candidates"])
def test_keys_and_values_may_be_views_of_one_tensor(num_queries) -> None:
    case = on_device(problem([20, 5], num_queries))
    expected = case.run(TritonAttention)
    both = torch.stack([case.leaves["k"], case.leaves["v"]], dim=1).detach().requires_grad_()
    case.leaves |= dict(zip("kv", both.unbind(1), strict=True))
    case.leaves["q"] = case.leaves["q"].detach().transpose(0, 2).contiguous().transpose(0, 2).requires_grad_()
    for ours, reference in zip(case.run(TritonAttention), expected, strict=True):
        torch.testing.assert_close(ours, reference)


def test_a_gradient_that_is_one_number_everywhere_is_accepted() -> None:
    case = on_device(problem([20], None))
    out = TritonAttention(case.queries, case.context, case.scoring)(*(case.leaves[n] for n in "qkvkv"))
    (summed,) = torch.autograd.grad(out.sum(), case.leaves["v"], retain_graph=True)
    (weighted,) = torch.autograd.grad(out, case.leaves["v"], torch.ones_like(out))
    torch.testing.assert_close(summed, weighted)


def test_times_beyond_int32_keep_their_differences() -> None:
    case = problem([20], [5], by="time", learned=True)
    long_after = 2**33
    queries, context = case.queries, case.context
    case.context = replace(context, time=context.time + long_after)
    tokens = replace(queries.tokens, time=queries.tokens.time + long_after)
    case.queries = replace(queries, tokens=tokens, next_time=queries.next_time + long_after)
    check(case)


@pytest.mark.usefixtures("_deterministic")
@pytest.mark.parametrize("num_queries", [None, [9, 3]], ids=["history", "candidates"])
def test_deterministic_gradients_equal_the_reference_and_each_other(num_queries) -> None:
    case = problem([20, 5], num_queries, by="both", weighting="silu", learned=True)
    check(case)
    once, again = (on_device(case).run(TritonAttention) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))


def test_no_seen_key_is_left_out_of_a_block_whose_queries_are_out_of_order() -> None:
    case = problem([70], [40])
    shuffled = case.queries.prefix[torch.randperm(40, generator=torch.Generator().manual_seed(0))]
    tokens = replace(case.queries.tokens, position=shuffled)
    case.queries = replace(case.queries, tokens=tokens, prefix=shuffled)
    check(case)


@pytest.mark.parametrize("num_queries", [None, [30, 5]], ids=["history", "candidates"])
def test_positions_far_apart_equal_the_reference(num_queries) -> None:
    case = problem([40, 7], num_queries, by="both")
    apart = replace(case.queries.tokens, position=case.queries.tokens.position * 300)
    case.context = replace(case.context, position=case.context.position * 300)
    case.queries = replace(case.queries, tokens=apart)
    check(case, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("weighting", ["softmax", "silu"])
@pytest.mark.parametrize("num_queries", [None, [30, 5]], ids=["history", "candidates"])
def test_scores_of_ten_thousands_equal_the_reference(num_queries, weighting) -> None:
    case = problem([40, 7], num_queries, weighting=weighting)
    case.leaves |= {name: (case.leaves[name].detach() * 100).requires_grad_() for name in ("q", "k")}
    check(case, atol=0.05, rtol=1e-3)


@pytest.mark.skipif(DEVICE.type == "cuda", reason="a sparse file has no place there")
def test_a_head_further_away_than_int32_reaches_is_read(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(globals(), "HEADS", 3)
    case = problem([5, 2], None)
    expected = case.run(TritonAttention)
    q, stride = case.leaves["q"].detach(), 2**30 + 64  # of which the third head's is twice: beyond 2^31
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(4 * HEADS * stride)
    apart = torch.from_file(str(path), shared=True, size=HEADS * stride).as_strided(q.shape, (q.shape[-1], stride, 1))
    apart.copy_(q)
    case.leaves["q"] = apart.requires_grad_()
    assert all(torch.equal(a, b) for a, b in zip(case.run(TritonAttention), expected, strict=True))


@pytest.mark.parametrize("in_order", [True, False])
def test_behind_its_masked_queries_every_query_sees_the_whole_block_of_keys(in_order) -> None:
    case = problem([70, 0, 33], [40, 2, 25])
    prefix = case.queries.prefix
    if not in_order:
        prefix = torch.cat([part[torch.randperm(len(part))] for part in prefix.split([40, 2, 25])])
        case.queries = replace(case.queries, prefix=prefix)
    size = 16
    for begin, context, end, first, whole, last in (
        TritonAttention(case.queries, case.context, case.scoring).key_blocks(size).tolist()
    ):
        if begin < end:
            needed = begin + size - context
            assert (prefix[first:whole] > begin - context).any() or whole <= first
            assert (prefix[whole:last] >= needed).all()
            assert whole >= last or whole <= first or prefix[whole - 1] < needed


def test_blocks_of_neighbouring_sequences_run_together_and_the_longest_of_them_first(monkeypatch) -> None:
    monkeypatch.setattr(triton_attention, "SECTION", 100)
    case = problem([64, 30, 80, 64], None)
    blocks = TritonAttention(case.queries, case.context, case.scoring).query_blocks(16).tolist()
    context = [row[2] for row in blocks if row[0] < row[1]]
    assert [start // 100 for start in context] == sorted(start // 100 for start in context)
    work = [min(begin + 16, end) - start for begin, end, start in blocks if begin < end and start // 100 == 0]
    assert work == sorted(work, reverse=True)


def test_too_many_channels_are_refused() -> None:
    case = problem([3], None, channels=136)
    with pytest.raises(ValueError, match="heads of up to 128 channels, not 136"):
        case.run(TritonAttention)
