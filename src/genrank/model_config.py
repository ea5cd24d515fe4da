"""ModelConfig: the interface of every model family's configuration, so that other code needn't know the family.

A family is a subclass that is a frozen dataclass with a field `kind`, its name in files. It builds its model, checks
the data that the model is to be trained on, and states what its model can do. Rankers are listed in
`models/__init__.py`, retrievers in `retrieval/__init__.py`, so that a file's `kind` is known.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import nn

from genrank.config import nearest
from genrank.schema import DataSpec


class ModelConfig(ABC):
    """Base of the families' configurations. `kinds`: all families that are imported, by `kind`."""

    kinds: ClassVar[dict[str, type["ModelConfig"]]] = {}
    kind: str
    retrieves: ClassVar[bool] = False  # searches all items; else scores the candidates of a request
    search: Any  # SearchConfig: which events before the window the model uses
    position_feature: bool = False  # needs the slot of every exposure
    packs_requests: bool = True  # requests of a user may share one history; False: they would see their own labels
    slow_start: bool = False  # learns little in its first thousands of steps

    def __init_subclass__(cls) -> None:
        if "kind" in vars(cls):
            ModelConfig.kinds[cls.kind] = cls

    @abstractmethod
    def build(self, spec: DataSpec, *, max_history: int) -> nn.Module:
        """The model with random weights, for the features and tasks of `spec` and histories of that many events."""

    @abstractmethod
    def check(self, spec: DataSpec, *, num_items: int | None = None) -> None:
        """ValueError, naming the setting, if the data lacks what the configuration needs.

        num_items: of the data, if known.
        """


def check_left_out(names: Sequence[str], spec: DataSpec) -> None:
    """ValueError if a model's setting `without` names an unknown feature, or leaves items without features."""
    known = {feature.name for feature in spec.features}
    for name in names:
        if name not in known:
            raise ValueError(f"without names {name!r}, and the data has no such feature; {nearest(name, known)}")
    if all(feature.name in names for feature in spec.of("item")):
        raise ValueError("without leaves items without any feature; keep item_id")
