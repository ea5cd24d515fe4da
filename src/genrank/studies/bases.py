"""What studies start from: the recipes of one size with the user's settings, and properties of the data set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from genrank.config import has_setting, override
from genrank.data.manifest import Manifest
from genrank.errors import ConfigError, DataError
from genrank.recipes import RECIPES, recipe
from genrank.runs.run_config import RunConfig
from genrank.schema import DataSpec

Size = Literal["small", "full", "paper"]
GENRANK, HSTU = "genrank", "hstu"
NUM_VALIDATIONS = 10  # so that the last tenth of the validation curve can be seen
SUFFIX: Mapping[Size, str] = {"small": "-small", "full": "", "paper": "-paper"}


@dataclass(frozen=True, kw_only=True)
class Bases:
    """Recipes by ranker: `genrank`, `hstu`, `mlp`, `din`, `sim`. settings: PATH=VALUE, for recipes with that path."""

    manifest: Manifest
    size: Size = "small"
    settings: Sequence[str] = ()

    def recipe(self, ranker: str, *changes: str) -> RunConfig:
        """The ranker's recipe of this size with the user's settings, then `changes`.

        A setting that only some rankers have, such as model.num_blocks, is applied to those. ConfigError for a setting
        that no ranker has.
        """
        name = ranker + SUFFIX[self.size]
        if name not in RECIPES:
            raise ConfigError(f"--size {self.size}: there is no recipe {name}; choose small or full")
        config, all_kinds = recipe(name), (recipe("genrank"), recipe("mlp"), recipe("grank"))
        others = [text for text in self.settings if any(has_setting(other, _path(text)) for other in all_kinds)]
        kept = [text for text in self.settings if has_setting(config, _path(text)) or text not in others]
        return override(_often_validated(override(config, kept), kept), changes)

    def sets(self, path: str) -> bool:
        """Whether the user gives that setting, which then isn't tuned."""
        return any(_path(text) == path for text in self.settings)

    @property
    def spec(self) -> DataSpec:
        """The features and tasks of the data set."""
        return self.manifest.spec

    @property
    def has_content(self) -> bool:
        """Whether items have frozen embeddings."""
        return any(feature.kind == "embedding" for feature in self.spec.of("item"))

    @property
    def has_categories(self) -> bool:
        """Whether items have a category, by which SIM's hard search finds events."""
        return any(f.kind in ("categorical", "multi") and f.name != "item_id" for f in self.spec.of("item"))

    def require_binary(self, study: str) -> None:
        """DataError if the data has no binary task, whose AUC a study compares."""
        if not any(task.kind == "binary" for task in self.spec.tasks):
            has = _names(self.spec.tasks)
            raise DataError(f"study {study}: needs a binary task, and the data has {has}; add one under [[tasks]]")

    def require_parts(self, study: str) -> None:
        """DataError where a part of the data is empty."""
        counts = self.manifest.counts
        for part, size in (("train", counts.train), ("valid", counts.valid), ("test", counts.test)):
            if not size.exposures:
                raise DataError(f"study {study}: the {part} part is empty; prepare with another [split]")


def _often_validated(config: RunConfig, settings: Sequence[str]) -> RunConfig:
    """With at least NUM_VALIDATIONS validations, unless the user sets their interval or early stopping."""
    training = config.training
    if training.patience or any(_path(text) == "training.validate_every" for text in settings):
        return config
    every = min(training.validate_every, training.epochs / NUM_VALIDATIONS)
    return replace(config, training=replace(training, validate_every=every))


def _path(setting: str) -> str:
    return setting.partition("=")[0].strip()


def _names(parts: Sequence[Any]) -> str:
    return ", ".join(f"{part.name} ({part.kind})" for part in parts) or "none"
