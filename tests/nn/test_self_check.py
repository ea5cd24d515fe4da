"""A backend is used on a device only after it has given the plain one's numbers there."""

from collections.abc import Iterator

import pytest
import torch

from genrank.cli.doctor import backends
from genrank.nn import backends as chooser
from genrank.nn import native_attention, self_check, triton_kernels
from genrank.nn.backends import BACKENDS, checked, choose_backend
from genrank.nn.native_attention import NativeAttention
from genrank.nn.triton_attention import TritonAttention

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _anew() -> Iterator[None]:
    """Nothing is remembered from other tests, nor for them."""
    for cached in (self_check.failure, chooser._warn_once):
        cached.cache_clear()
    yield
    for cached in (self_check.failure, chooser._warn_once):
        cached.cache_clear()


@pytest.mark.parametrize("fusible", [True, False])
@pytest.mark.parametrize("name", ["native", "triton"])
def test_right_backends_pass(name: str, fusible: bool) -> None:
    assert checked(name, CPU, fusible=fusible, channels=16) == "passed"


def test_fused_passes_for_what_it_knows() -> None:
    assert checked("fused", CPU, channels=16) == "passed"
    assert "has neither" in checked("fused", CPU, fusible=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_check_passes_in_half_precision_too(dtype: torch.dtype) -> None:
    assert self_check.failure(NativeAttention, "cpu", dtype, 16, fusible=True) == ""


def test_the_check_disturbs_no_random_numbers() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    assert self_check.failure(NativeAttention, "cpu", torch.float32, 16, fusible=False) == ""
    assert torch.equal(torch.rand(4), expected)


def test_the_first_use_may_be_under_inference_mode() -> None:
    with torch.inference_mode():
        for name in ("native", "fused"):
            assert checked(name, CPU, channels=16) == "passed"
        assert checked("native", CPU, fusible=False, channels=16) == "passed"


class WrongSoftmax(NativeAttention):
    """Right for SiLU; wrong for softmax with a learned bias."""

    def __call__(self, q, k, v, own_k, own_v, learned=None):  # type: ignore[no-untyped-def]
        out = super().__call__(q, k, v, own_k, own_v, learned)
        return 2 * out if learned is not None and self.scoring.weighting == "softmax" else out


def test_softmax_with_a_learned_bias_is_checked_too(monkeypatch) -> None:
    monkeypatch.setitem(BACKENDS, "native", WrongSoftmax)
    assert checked("native", CPU, channels=16) == "passed"
    assert "its output is off by" in checked("native", CPU, fusible=False, channels=16)


class Wrong(NativeAttention):
    """Right to look at, but one number is off."""

    def __call__(self, *inputs, **named):  # type: ignore[no-untyped-def]
        out = super().__call__(*inputs, **named)
        off = torch.zeros_like(out)
        off[0, 0, 0] = 0.1
        return out + off


class WrongGradient(NativeAttention):
    def __call__(self, q, k, v, own_k, own_v, learned=None):  # type: ignore[no-untyped-def]
        return super().__call__(q, k, 2 * v - v.detach(), own_k, own_v, learned)


WRONG = [
    pytest.param(Wrong, "its output is off by 0.1 for history", marks=pytest.mark.slow),
    (WrongGradient, "gradient of v"),
]


@pytest.mark.parametrize(("broken", "said"), WRONG)
def test_a_wrong_number_is_found_and_another_backend_runs(broken, said: str, monkeypatch, caplog) -> None:
    monkeypatch.setitem(BACKENDS, "native", broken)
    for _ in range(3):
        assert choose_backend("auto", CPU, fusible=True, channels=16) == "fused"
        assert choose_backend("auto", CPU, fusible=False, channels=16) == "plain"
    warnings = [record.getMessage() for record in caplog.records if record.name == "genrank.nn.backends"]
    assert len(warnings) == len(set(warnings)) <= 2  # once for softmax, once for SiLU
    assert said in warnings[0]
    assert "\n" not in warnings[0]
    with pytest.raises(ValueError, match=f"'native' failed its check on cpu.*{said}.*set it to 'auto'"):
        choose_backend("native", CPU, fusible=True, channels=16)
    assert said in backends()["native"]


def test_a_library_that_fails_is_found(monkeypatch, caplog) -> None:
    def broken() -> None:
        raise OSError("undefined symbol: attention_forward\nand more lines")

    monkeypatch.setattr(native_attention, "_library", broken)
    assert choose_backend("auto", CPU, fusible=True, channels=16) == "fused"
    assert "failed its check on cpu in float32 (OSError: undefined symbol: attention_forward)" in caplog.text


def test_a_broken_kernel_in_the_interpreter_is_found(monkeypatch) -> None:
    right = triton_kernels._time_index
    monkeypatch.setattr(triton_kernels, "_time_index", lambda next_time, time_k: right(next_time, time_k) * 0)
    assert "off by" in checked("triton", CPU, fusible=False, channels=16)
    assert checked("triton", CPU, fusible=True, channels=16) == "passed"  # which has no learned bias by time


def test_a_kernel_that_does_not_compile_is_found(monkeypatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("PassManager::run failed\nat line 7")

    monkeypatch.setattr(TritonAttention, "__call__", fail)
    assert checked("triton", CPU).endswith("(RuntimeError: PassManager::run failed)")


def test_a_check_is_made_once(monkeypatch) -> None:
    calls = []
    real = self_check._run
    monkeypatch.setattr(self_check, "_run", lambda *a, **k: (calls.append(1), real(*a, **k))[1])
    for _ in range(5):
        choose_backend("auto", CPU, fusible=True, channels=16)
    assert len(calls) == 4  # ours and plain's, history and candidates


def test_doctor_shows_every_backend() -> None:
    found = backends()
    assert set(found) == {"fused", "native", "triton", "flex"}
    assert "equals the plain one on cpu" in found["native"]
    assert found["flex"].startswith("not used: trains on CUDA only")
