import re

import pytest
import torch

from genrank.errors import ConfigError
from genrank.nn.devices import device_named, on_device, precision_on


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with two CUDA devices, of which the second is the current one."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr("genrank.nn.devices._use", lambda name, device: None)


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("name", "found"), [("auto", "cuda:1"), ("cuda", "cuda:1"), ("cuda:0", "cuda:0"), ("cpu", "cpu")]
)
def test_a_cuda_device_has_its_index(name: str, found: str) -> None:
    assert str(device_named(name)) == found


@pytest.mark.usefixtures("two_gpus")
def test_an_index_beyond_the_devices_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ConfigError, match=r"^device=cuda:2: there is no such CUDA device, only cuda:0 to cuda:1; "):
        device_named("cuda:2")


def test_auto_is_the_cpu_where_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_named("auto") == torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("cuda", "PyTorch finds no CUDA device here"),
        ("cuda:3", "PyTorch finds no CUDA device here"),
        ("cuda:-1", "expected auto, cpu, cuda or cuda:N"),
        ("gpu", "expected auto, cpu, cuda or cuda:N"),
        ("", "expected auto, cpu, cuda or cuda:N"),
        ("meta", "holds no numbers"),
        ("mps", "can't be used"),
    ],
)
def test_what_is_not_there_is_refused_in_one_line(name: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=re.escape(reason)) as refused:
        device_named(name)
    assert "\n" not in str(refused.value)
    assert "set device=cpu" in str(refused.value)


def test_half_precision_is_chosen_on_cuda_only() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda:0")
    assert [precision_on(device, "auto") for device in (cpu, cuda)] == ["fp32", "bf16"]
    assert [precision_on(device, "fp32") for device in (cpu, cuda)] == ["fp32", "fp32"]
    assert precision_on(cpu, "bf16") == "bf16"


def test_off_cuda_there_is_no_current_device_to_change() -> None:
    with on_device(torch.device("cpu")):
        assert torch.zeros(1).device.type == "cpu"
