"""A prepared folder in memory, and the samples of its parts."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from genrank.data.manifest import Manifest
from genrank.data.past_search import SearchConfig
from genrank.data.sequence import Samples, SequenceBuilder, SequenceConfig
from genrank.data.tables import FeatureTable
from genrank.data.timeline_files import load_timelines
from genrank.data.timelines import Timelines
from genrank.errors import DataError

Part = Literal["train", "valid", "test"]


@dataclass(frozen=True, kw_only=True)
class PreparedData:
    """A prepared folder in memory."""

    folder: Path
    manifest: Manifest
    timelines: Timelines
    items: FeatureTable
    users: FeatureTable

    @classmethod
    def load(cls, folder: Path) -> "PreparedData":
        """Everything in the folder. Raises DataError for what is missing or damaged."""
        manifest = Manifest.open(folder)
        return cls(
            folder=folder,
            manifest=manifest,
            timelines=load_timelines(folder, manifest.spec),
            items=FeatureTable.load(folder, "item", manifest.spec),
            users=FeatureTable.load(folder, "user", manifest.spec),
        )

    def at_once(self, leaks: bool = True) -> "PreparedData":
        """With every action known as its exposure is made, where that is asked for; see Timelines."""
        return replace(self, timelines=self.timelines.at_once()) if leaks else self

    def builder(self, config: SequenceConfig, search: SearchConfig | None = None) -> SequenceBuilder:
        """The sequence builder over these timelines; `search` is the model's."""
        return SequenceBuilder(
            config, self.manifest.spec, timelines=self.timelines, items=self.items, users=self.users, search=search
        )

    def part(self, builder: SequenceBuilder, name: Part) -> Samples:
        """The samples of `train`, `valid` or `test`. DataError where the part is empty."""
        split = self.manifest.split
        begin, end = {
            "train": (None, split.valid_start),
            "valid": (split.valid_start, split.test_start),
            "test": (split.test_start, None),
        }[name]
        samples = builder.samples(begin=begin, end=end)
        if not len(samples):
            raise DataError(f"{self.folder}: the part {name!r} holds no exposures; prepare with another [split]")
        return builder.with_history(samples) if name == "train" and builder.config.loss_on_history else samples
