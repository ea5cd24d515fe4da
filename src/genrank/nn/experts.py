"""Multi-task bottoms: from the candidate's vector to one vector per task, then each task's tower.

- shared: every task gets the candidate's vector itself.
- mmoe: each task mixes the same experts by a separate gate (Ma et al. 2018, "Modeling Task Relationships in Multi-task
  Learning with Multi-gate Mixture-of-Experts").
- ple: each task has experts beside the shared ones (Tang et al. 2020, "Progressive Layered Extraction").

An expert is Linear + GELU; experts of one kind are one matrix product. Gates are softmax without a bias.

Shapes: C candidates, W width, P width of PPNet's prior, K tasks, E experts, X width of an expert's output.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genrank.nn.embeddings import module_key
from genrank.nn.ppnet import Tower


@dataclass(frozen=True, kw_only=True)
class MultiTaskConfig:
    """The layers between the candidate's vector and the tasks' logits."""

    kind: Literal["shared", "mmoe", "ple"] = "shared"
    num_experts: int = 4  # mmoe: all of them; ple: the shared ones
    num_task_experts: int = 2  # ple: of each task
    num_layers: int = 1  # ple
    expert: int = 64  # width of an expert's output
    tower: int = 64  # width of a tower's layers
    tower_layers: int = 1
    ppnet: bool = False  # gates by user and item in every layer of the towers

    def __post_init__(self) -> None:
        if self.kind not in BOTTOMS:
            raise ValueError(f"kind is {self.kind!r}; it must be one of {', '.join(BOTTOMS)}")
        for name in ("num_experts", "num_task_experts", "num_layers", "expert", "tower", "tower_layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.num_layers > 1 and self.kind != "ple":
            raise ValueError(f"num_layers is {self.num_layers}, but kind={self.kind} has no layers; set kind=ple, or 1")


class Experts(nn.Module):
    """Experts f_i(x) = GELU(W_i x + b_i) of one input."""

    def __init__(self, *, width: int, num_experts: int, expert: int):
        super().__init__()
        self.num_experts, self.expert = num_experts, expert
        self.project = nn.Linear(width, num_experts * expert)

    def forward(self, x_CW: Tensor) -> Tensor:
        """(C, E, X)."""
        return F.gelu(self.project(x_CW)).view(-1, self.num_experts, self.expert)


def mix(gate: nn.Module, x_CW: Tensor, experts_CEX: Tensor) -> Tensor:
    """(C, X) Σ_i g_i(x) f_i, with g = softmax(gate(x))."""
    return torch.einsum("ce,cex->cx", torch.softmax(gate(x_CW), -1), experts_CEX)


class Shared(nn.Module):
    """The candidate's vector for every task."""

    def __init__(self, config: MultiTaskConfig, *, num_tasks: int, width: int):
        super().__init__()
        self.num_tasks, self.width = num_tasks, width

    def forward(self, x_CW: Tensor) -> list[Tensor]:
        """(C, W) per task."""
        return [x_CW] * self.num_tasks


class MMoE(nn.Module):
    """f^k = Σ_i g_i^k(x) f_i(x), with shared experts f_i and a gate g^k per task."""

    def __init__(self, config: MultiTaskConfig, *, num_tasks: int, width: int):
        super().__init__()
        self.width = config.expert
        self.experts = Experts(width=width, num_experts=config.num_experts, expert=config.expert)
        self.gates = nn.ModuleList(nn.Linear(width, config.num_experts, bias=False) for _ in range(num_tasks))

    def forward(self, x_CW: Tensor) -> list[Tensor]:
        """(C, X) per task."""
        experts_CEX = self.experts(x_CW)
        return [mix(gate, x_CW, experts_CEX) for gate in self.gates]


class PLELayer(nn.Module):
    """One extraction: f^k = Σ_{i ∈ E_k ∪ E_s} g_i^k(x^k) f_i. Experts E_k read x^k, experts E_s the shared vector.

    Unless it is the last layer, the shared vector becomes a mixture of all experts by a gate that reads it.
    """

    def __init__(self, config: MultiTaskConfig, *, num_tasks: int, width: int, is_last: bool):
        super().__init__()
        own, shared = config.num_task_experts, config.num_experts
        self.own = nn.ModuleList(Experts(width=width, num_experts=own, expert=config.expert) for _ in range(num_tasks))
        self.shared = Experts(width=width, num_experts=shared, expert=config.expert)
        self.gates = nn.ModuleList(nn.Linear(width, own + shared, bias=False) for _ in range(num_tasks))
        self.shared_gate = None if is_last else nn.Linear(width, num_tasks * own + shared, bias=False)

    def forward(self, tasks: list[Tensor], shared_CW: Tensor) -> tuple[list[Tensor], Tensor]:
        """(C, X) per task, and the next shared vector (C, X); the last layer returns the old one."""
        own = [experts(x_CW) for experts, x_CW in zip(self.own, tasks, strict=True)]
        common_CEX = self.shared(shared_CW)
        mixed = [
            mix(gate, x_CW, torch.cat([own_CEX, common_CEX], 1))
            for gate, x_CW, own_CEX in zip(self.gates, tasks, own, strict=True)
        ]
        if self.shared_gate is None:
            return mixed, shared_CW
        return mixed, mix(self.shared_gate, shared_CW, torch.cat([*own, common_CEX], 1))


class PLE(nn.Module):
    """Extractions in sequence; in the first one all tasks and the shared experts read the candidate's vector."""

    def __init__(self, config: MultiTaskConfig, *, num_tasks: int, width: int):
        super().__init__()
        self.width, self.num_tasks, last = config.expert, num_tasks, config.num_layers - 1
        self.layers = nn.ModuleList(
            PLELayer(config, num_tasks=num_tasks, width=config.expert if index else width, is_last=index == last)
            for index in range(config.num_layers)
        )

    def forward(self, x_CW: Tensor) -> list[Tensor]:
        """(C, X) per task."""
        tasks, shared_CW = [x_CW] * self.num_tasks, x_CW
        for layer in self.layers:
            tasks, shared_CW = layer(tasks, shared_CW)
        return tasks


BOTTOMS: dict[str, type[Shared | MMoE | PLE]] = {"shared": Shared, "mmoe": MMoE, "ple": PLE}


class TaskTowers(nn.Module):
    """LayerNorm, the bottom, and one tower per task. Raises ValueError for PPNet without a prior."""

    def __init__(
        self, num_logits: Mapping[str, int], config: MultiTaskConfig, *, width: int, prior: int, dropout: float
    ):
        super().__init__()
        if config.ppnet and prior < 1:
            raise ValueError(f"ppnet=true needs a prior, but its width is {prior}; give the ids' vectors, or set false")
        self.names = tuple(num_logits)
        self.norm = nn.LayerNorm(width)
        self.bottom = BOTTOMS[config.kind](config, num_tasks=len(num_logits), width=width)
        self.towers = nn.ModuleDict(
            {
                module_key(name): Tower(
                    width=self.bottom.width,
                    tower=config.tower,
                    num_layers=config.tower_layers,
                    num_logits=size,
                    prior=prior if config.ppnet else 0,
                    dropout=dropout,
                )
                for name, size in num_logits.items()
            }
        )

    def forward(self, x_CW: Tensor, prior_CP: Tensor | None) -> dict[str, Tensor]:
        """(C, logits) per task. `prior_CP` is PPNet's, None without it."""
        tasks = self.bottom(self.norm(x_CW))
        return {
            name: self.towers[module_key(name)](task, prior_CP) for name, task in zip(self.names, tasks, strict=True)
        }
