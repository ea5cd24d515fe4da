"""A prepared folder in memory, and the samples of its parts."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from genrank.data.learned_days import LearnedDays, train_counts, with_learned_days
from genrank.data.manifest import Manifest, SplitTimes
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
    def load(cls, folder: Path, days: LearnedDays | None = None) -> "PreparedData":
        """Everything in the folder, with the parts that `days` choose.

        Raises DataError for missing or damaged files, and ConfigError for days outside the log.
        """
        manifest = Manifest.open(folder)
        if not days:
            return cls.read(folder, manifest)
        return cls.read(folder, with_learned_days(manifest, folder, days)).counted_anew()

    @classmethod
    def read(cls, folder: Path, manifest: Manifest) -> "PreparedData":
        """Everything in a verified folder, with the parts and vocabulary sizes of `manifest`."""
        return cls(
            folder=folder,
            manifest=manifest,
            timelines=load_timelines(folder, manifest.spec),
            items=FeatureTable.load(folder, "item", manifest.spec),
            users=FeatureTable.load(folder, "user", manifest.spec),
        )

    def counted_anew(self) -> "PreparedData":
        """With exposures per item and per user counted until the end of training, instead of the prepared counts."""
        t, until = self.timelines, self.manifest.split.valid_start
        items = train_counts(t.item, t, until, len(self.items))
        users = train_counts(t.users[t.user_of_row()], t, until, len(self.users))
        return replace(self, items=replace(self.items, train_count=items), users=replace(self.users, train_count=users))

    def at_once(self, leaks: bool = True) -> "PreparedData":
        """With every action known at the time of its exposure, if so configured; see Timelines."""
        return replace(self, timelines=self.timelines.at_once()) if leaks else self

    def builder(self, config: SequenceConfig, search: SearchConfig | None = None) -> SequenceBuilder:
        """The sequence builder over these timelines; `search` is the model's."""
        return SequenceBuilder(
            config, self.manifest.spec, timelines=self.timelines, items=self.items, users=self.users, search=search
        )

    def part(self, builder: SequenceBuilder, name: Part) -> Samples:
        """The samples of `train`, `valid` or `test`. DataError if the part is empty."""
        samples = samples_of(builder, self.manifest.split, name)
        if not len(samples):
            raise DataError(f"{self.folder}: the part {name!r} holds no exposures; prepare with another [split]")
        return samples


def samples_of(builder: SequenceBuilder, split: SplitTimes, name: Part) -> Samples:
    """The samples of a part, which may be none where the builder's timelines are some of the log's."""
    begin, end = split.times(name)
    samples = builder.samples(begin=begin, end=end)
    return builder.with_history(samples) if name == "train" and builder.config.loss_on_history else samples
