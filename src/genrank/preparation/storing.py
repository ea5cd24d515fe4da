"""Shared steps of preparing a folder and extending one: fitting arranged buckets, and writing their parts."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from genrank.data.manifest import FolderLayout, SplitTimes
from genrank.data.timeline_files import part_path
from genrank.data.vocabulary_files import vocabulary_path
from genrank.preparation.admission import Periods
from genrank.preparation.buckets import Buckets, load_bucket
from genrank.preparation.fitting import Fitted, FittedBefore, fit
from genrank.preparation.staging import Staging
from genrank.preparation.summary import bare
from genrank.preparation.writing import part_rows, write_parts
from genrank.schema import LogSchema

PartNumbers = Mapping[tuple[int, int], int]  # (first day of a partition, bucket) → number of a new part, else 0


def fit_log(
    buckets: Buckets,
    staging: Staging,
    schema: LogSchema,
    periods: Periods,
    split: SplitTimes,
    before: FittedBefore | None = None,
) -> Fitted:
    """Vocabularies and boundaries of arranged buckets; see `fit`."""
    return fit(
        buckets,
        schema,
        values=staging.categories | buckets.multi_values,
        num_rows={"user": staging.users.num_rows, "item": staging.items.num_rows, "log": staging.num_rows},
        periods=periods,
        valid_start=split.valid_start,
        before=before,
    )


def write_vocabularies(fitted: Fitted, folder: Path) -> None:
    """Those of exposures' features and feedback."""
    for name, vocabulary in fitted.vocabularies.items():
        vocabulary.write(vocabulary_path(folder, bare(name)))


def write_timelines(
    buckets: Buckets,
    schema: LogSchema,
    fitted: Fitted,
    layout: FolderLayout,
    folder: Path,
    *,
    threads: int,
    numbers: PartNumbers | None = None,
) -> None:
    """Writes the parts of every bucket below `folder`."""

    def write(bucket: int) -> None:
        write_parts(load_bucket(buckets.paths[bucket]), schema, fitted, layout, folder, bucket, numbers or {})

    with ThreadPoolExecutor(max_workers=min(threads, 4)) as pool:  # each holds a bucket in memory
        list(pool.map(write, range(len(buckets.paths))))


def move_statistics(
    buckets: Buckets, layout: FolderLayout, scratch: Path, folder: Path, numbers: PartNumbers | None = None
) -> None:
    """From a file per bucket in `scratch`, in the order of its rows, to one beside each of its parts."""
    for bucket, path in enumerate(buckets.paths):
        file = scratch / "statistics" / f"bucket={bucket:04d}.npy"
        answers = np.load(file, mmap_mode="r", allow_pickle=False)
        for first_day, rows in part_rows(load_bucket(path), layout.days_per_part):
            part = part_path(
                folder / "statistics", first_day, bucket, (numbers or {}).get((first_day, bucket), 0)
            ).with_suffix(".npy")
            part.parent.mkdir(parents=True, exist_ok=True)
            np.save(part, answers[rows], allow_pickle=False)
        file.unlink()
