"""Multi-task bottoms and towers against their equations, written out one candidate and one expert at a time."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from genrank.config import build
from genrank.errors import ConfigError
from genrank.nn.embeddings import module_key
from genrank.nn.experts import PLE, Experts, MMoE, MultiTaskConfig, TaskTowers

WIDTH, PRIOR, ROWS = 6, 3, 5
LOGITS = {"click": 1, "forward": 1, "dwell": 4}
CONFIGS = {
    "shared": MultiTaskConfig(tower=7),
    "deep_towers": MultiTaskConfig(tower=7, tower_layers=3),
    "ppnet": MultiTaskConfig(tower=7, tower_layers=2, ppnet=True),
    "mmoe": MultiTaskConfig(kind="mmoe", num_experts=3, expert=8, tower=7),
    "ple": MultiTaskConfig(kind="ple", expert=8, tower=7),
    "deep_ple": MultiTaskConfig(kind="ple", num_layers=3, expert=8, tower=7, ppnet=True),
}


def towers(config: MultiTaskConfig, *, dropout: float = 0.0) -> TaskTowers:
    torch.manual_seed(0)
    return TaskTowers(LOGITS, config, width=WIDTH, prior=PRIOR if config.ppnet else 0, dropout=dropout).double()


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    draw = (torch.randn(ROWS, size, dtype=torch.float64, generator=generator) for size in (WIDTH, PRIOR))
    x_CW, prior_CP = (value.requires_grad_() for value in draw)
    return x_CW, prior_CP


def expert(experts: Experts, index: int, x: torch.Tensor) -> torch.Tensor:
    """f_i(x) of one candidate."""
    size = experts.project.out_features // experts.num_experts
    rows = slice(index * size, (index + 1) * size)
    return F.gelu(experts.project.weight[rows] @ x + experts.project.bias[rows])


def weighted(gate: nn.Module, x: torch.Tensor, outputs: list[torch.Tensor]) -> torch.Tensor:
    """Σ_i g_i(x) f_i of one candidate."""
    scores = [(row @ x).exp() for row in gate.weight]
    return sum((score / sum(scores) * output for score, output in zip(scores, outputs, strict=True)), torch.tensor(0))


def mmoe_by_the_equations(bottom: MMoE, x: torch.Tensor) -> list[torch.Tensor]:
    outputs = [expert(bottom.experts, i, x) for i in range(bottom.experts.num_experts)]
    return [weighted(gate, x, outputs) for gate in bottom.gates]


def ple_by_the_equations(bottom: PLE, x: torch.Tensor) -> list[torch.Tensor]:
    tasks, shared = [x] * len(LOGITS), x
    for layer in bottom.layers:
        common = [expert(layer.shared, i, shared) for i in range(layer.shared.num_experts)]
        own = [[expert(e, i, x_k) for i in range(e.num_experts)] for e, x_k in zip(layer.own, tasks, strict=True)]
        gated = [weighted(gate, x_k, mine + common) for gate, x_k, mine in zip(layer.gates, tasks, own, strict=True)]
        if layer.shared_gate is not None:
            shared = weighted(layer.shared_gate, shared, [f for mine in own for f in mine] + common)
        tasks = gated
    return tasks


@pytest.mark.parametrize("name", ["mmoe", "ple", "deep_ple"])
def test_the_bottom_equals_its_equations_within_1e_12(name: str) -> None:
    bottom, (x_CW, _) = towers(CONFIGS[name]).bottom, inputs()
    found = bottom(x_CW)
    by_the_equations = mmoe_by_the_equations if isinstance(bottom, MMoE) else ple_by_the_equations
    for row in range(ROWS):
        for task, expected_X in enumerate(by_the_equations(bottom, x_CW[row])):
            assert torch.allclose(found[task][row], expected_X, atol=1e-12, rtol=0)


def test_the_shared_bottom_is_one_hidden_layer_per_task_on_the_normed_vector() -> None:
    model, (x_CW, _) = towers(CONFIGS["shared"]), inputs()
    normed_CW, logits = F.layer_norm(x_CW, (WIDTH,)), model(x_CW, None)
    for name in LOGITS:
        tower = model.towers[module_key(name)]
        hidden_CH = F.gelu(tower.hidden[0][0](normed_CW))
        assert torch.allclose(logits[name], tower.out(hidden_CH), atol=1e-12, rtol=0)


def test_a_gated_tower_equals_ppnets_equation() -> None:
    model, (x_CW, prior_CP) = towers(CONFIGS["ppnet"]), inputs()
    model.apply(lambda module: nn.init.normal_(module.weight) if isinstance(module, nn.Linear) else None)
    tower, x_CW = model.towers[module_key("dwell")], F.layer_norm(x_CW, (WIDTH,))
    h_CH = x_CW
    for gate, layer in zip(tower.gates, [*tower.hidden, tower.out], strict=True):
        hidden_CH = (torch.cat([prior_CP, x_CW], 1) @ gate.hidden.weight.T + gate.hidden.bias).clamp_min(0)
        h_CH = layer(h_CH * 2 / (1 + (-hidden_CH @ gate.out.weight.T - gate.out.bias).exp()))
    assert torch.allclose(model(inputs()[0], prior_CP)["dwell"], h_CH, atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_task_has_its_logits_also_where_there_are_no_candidates(name: str) -> None:
    model, (x_CW, prior_CP) = towers(CONFIGS[name]), inputs()
    for rows in (ROWS, 0):
        prior = prior_CP[:rows] if CONFIGS[name].ppnet else None
        shapes = {task: tuple(logits.shape) for task, logits in model(x_CW[:rows], prior).items()}
        assert shapes == {task: (rows, size) for task, size in LOGITS.items()}


@pytest.mark.parametrize("name", CONFIGS)
def test_gradients_reach_every_parameter(name: str) -> None:
    model, (x_CW, prior_CP) = towers(CONFIGS[name]), inputs()
    sum(logits.square().sum() for logits in model(x_CW, prior_CP).values()).backward()
    for parameter, value in model.named_parameters():
        assert value.grad is not None, parameter
        assert value.grad.abs().sum() > 0, parameter


def test_a_gate_sends_gradient_to_the_prior_and_none_to_the_vector() -> None:
    gate = towers(CONFIGS["ppnet"]).towers[module_key("click")].gates[0]
    x_CW, prior_CP = inputs()
    gate(prior_CP, x_CW).square().sum().backward()
    assert x_CW.grad is None
    assert prior_CP.grad.abs().sum() > 0


def test_a_gate_reads_the_vector_and_the_prior() -> None:
    gate, (x_CW, prior_CP) = towers(CONFIGS["ppnet"]).towers[module_key("click")].gates[0], inputs()
    start_CH = gate(prior_CP, x_CW)
    assert not torch.equal(gate(prior_CP, x_CW + 1), start_CH)
    assert not torch.equal(gate(prior_CP + 1, x_CW), start_CH)


def test_gates_start_near_one() -> None:
    _, prior_CP = inputs()
    for tower in towers(CONFIGS["deep_ple"]).towers.values():
        x_CX = torch.randn(ROWS, 8, dtype=torch.float64)
        for gate in tower.gates:
            assert ((gate(prior_CP, x_CX) - 1).abs() < 0.2).all()


def test_without_ppnet_the_prior_is_not_read() -> None:
    model, (x_CW, prior_CP) = towers(CONFIGS["shared"]), inputs()
    assert torch.equal(model(x_CW, prior_CP)["click"], model(x_CW, None)["click"])


def test_dropout_acts_in_training_only() -> None:
    model, (x_CW, _) = towers(CONFIGS["shared"], dropout=0.5), inputs()
    assert not torch.equal(model(x_CW, None)["click"], model(x_CW, None)["click"])
    model.eval()
    assert torch.equal(model(x_CW, None)["click"], model(x_CW, None)["click"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "mixture"}, "mixture"),
        ({"num_experts": 0}, "num_experts is 0; it must be at least 1"),
        ({"num_task_experts": 0}, "num_task_experts is 0"),
        ({"tower_layers": 0}, "tower_layers is 0"),
        ({"tower": -1}, "tower is -1"),
        ({"expert": 0}, "expert is 0"),
        ({"kind": "ple", "num_layers": 0}, "num_layers is 0"),
        ({"kind": "mmoe", "num_layers": 2}, "num_layers is 2, but kind=mmoe has no layers"),
        ({"num_expert": 3}, "did you mean 'num_experts'"),
    ],
)
def test_a_bad_configuration_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(MultiTaskConfig, settings, where="heads")


def test_an_unknown_kind_is_refused_on_construction_too() -> None:
    with pytest.raises(ValueError, match="it must be one of shared, mmoe, ple"):
        MultiTaskConfig(kind="mixture")  # type: ignore[arg-type]


def test_ppnet_without_a_prior_is_refused() -> None:
    with pytest.raises(ValueError, match="ppnet=true needs a prior"):
        TaskTowers(LOGITS, MultiTaskConfig(ppnet=True), width=WIDTH, prior=0, dropout=0.0)
    with pytest.raises(ValueError, match="ppnet=true needs the prior"):
        towers(CONFIGS["ppnet"])(inputs()[0], None)
