import pytest
import torch

from genrank.nn.dropout import Dropout


def dropped(x: torch.Tensor, p: float, seed: int) -> torch.Tensor:
    torch.manual_seed(seed)
    return Dropout(p).train()(x)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_the_share_that_falls_is_p_and_the_mean_stays(p) -> None:
    out = dropped(torch.ones(300, 1000), p, 0)
    assert (out == 0).float().mean() == pytest.approx(p, abs=0.003)
    assert out.mean() == pytest.approx(1, abs=0.02)
    for dim in (0, 1):  # no row and no column falls more often than chance allows
        share = (out == 0).float().mean(dim)
        assert (share - p).abs().max() < 6 * (p * (1 - p) / min(out.shape)) ** 0.5


def test_neighbouring_elements_and_seeds_fall_independently() -> None:
    fallen = torch.stack([dropped(torch.ones(100_000), 0.3, seed) == 0 for seed in range(2)]).float()
    for a, b in ((fallen[0, 1:], fallen[0, :-1]), (fallen[0, 16384:], fallen[0, :-16384]), (fallen[0], fallen[1])):
        assert (a * b).mean() == pytest.approx(0.09, abs=0.005)


def test_the_gradient_passes_where_the_value_did_whatever_the_number_of_threads() -> None:
    x = torch.randn(50_000, requires_grad=True)
    out = dropped(x, 0.4, 3)
    torch.set_num_threads(2)
    out.sum().backward()
    torch.set_num_threads(1)
    torch.testing.assert_close(x.grad * x, out)


def test_evaluation_and_p_zero_change_nothing() -> None:
    x = torch.randn(5)
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0).train()(x) is x


def test_without_the_kernels_pytorch_drops(monkeypatch) -> None:
    monkeypatch.setattr("genrank.nn.dropout.load", lambda: None)
    assert (dropped(torch.ones(10_000), 0.2, 0) == 0).float().mean() == pytest.approx(0.2, abs=0.02)
