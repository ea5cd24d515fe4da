"""Contents of the manifest: the spec for the models, counts, and warnings of tasks that can't be learned."""

from collections.abc import Iterable, Sequence

from genrank.data.manifest import Counts, DataWarning, PartCounts
from genrank.data.statistics import statistics_columns
from genrank.errors import LogError
from genrank.preparation.buckets import Buckets
from genrank.preparation.entities import Entities
from genrank.preparation.fitting import Fitted
from genrank.preparation.writing import PARTS, BucketCounts
from genrank.schema import DataSpec, FeatureSpec, FeedbackSpec, LogSchema, TaskSpec


def bare(column: str) -> str:
    """The name in a column such as `feature_<name>`."""
    return column.partition("_")[2]


def data_spec(schema: LogSchema, fitted: Fitted, entities: Iterable[Entities], valid_start: int) -> DataSpec:
    """The resolved features, tasks and feedback: items' features, users', the exposures'. Sizes are those that the
    training part has learned."""
    features = [spec for part in entities for spec in part.specs]
    for feature in schema.features:
        if feature.owner == "exposure":
            name = f"feature_{feature.name}"
            edges = fitted.boundaries.get(name)
            size = fitted.vocabularies[name].size_at(valid_start) if edges is None else len(edges) + 2
            weighted = feature.weights is not None
            features.append(
                FeatureSpec(name=feature.name, owner="exposure", kind=feature.kind, size=size, weighted=weighted)
            )
    sampled = schema.sampling.task or next((task.name for task in schema.tasks if task.kind == "binary"), "")
    return DataSpec(
        features=tuple(features),
        tasks=tuple(
            TaskSpec(
                name=task.name,
                kind=task.kind,
                boundaries=fitted.boundaries.get(f"task_{task.name}", ()),
                means=fitted.means.get(f"task_{task.name}", ()),
                negative_rate=schema.sampling.negative_rate if task.name == sampled else 1.0,
            )
            for task in schema.tasks
        ),
        feedback=tuple(
            FeedbackSpec(name=part.name, size=fitted.vocabularies[f"feedback_{part.name}"].size_at(valid_start))
            for part in schema.feedback
        ),
        statistics=statistics_columns(schema),
        zone=schema.time.zone or "UTC",
        known_later=schema.known_later,
        weighted=schema.weighted,
    )


def total_counts(counts: Sequence[BucketCounts], *, users: int, items: int) -> Counts:
    """Sums over all buckets."""
    parts = {}
    for number, name in enumerate(PARTS):
        here = [bucket.parts[number] for bucket in counts]
        parts[name] = PartCounts(
            exposures=sum(part.exposures for part in here),
            requests=sum(part.requests for part in here),
            positives={task: sum(part.positives[task] for part in here) for task in here[0].positives},
        )
    return Counts(
        users=users,
        items=items,
        requests=sum(bucket.requests for bucket in counts),
        exposures=sum(bucket.exposures for bucket in counts),
        **parts,
    )


def one_class_tasks(counts: Sequence[BucketCounts], *, part: int) -> dict[str, str]:
    """Binary task → its counts in words, for tasks without both classes in a part that has exposures."""
    found: dict[str, str] = {}
    if not any(bucket.parts[part].exposures for bucket in counts):
        return found
    for task in counts[0].parts[part].positives:
        positives = sum(bucket.parts[part].positives[task] for bucket in counts)
        known = sum(bucket.known[part][task] for bucket in counts)
        if not 0 < positives < known:
            found[task] = f"{positives:,} positives among {known:,} exposures with a label"
    return found


def check_classes(counts: Sequence[BucketCounts]) -> list[DataWarning]:
    """Warnings for binary tasks with one class only in validation or test.

    Raises LogError if training has one class only, or if all weights of a part are 0.
    """
    for part, name in enumerate(PARTS):
        if any(bucket.parts[part].exposures for bucket in counts) and not any(
            bucket.weights[part] for bucket in counts
        ):
            raise LogError(
                f"columns.weight: all exposures of the {name} part weigh 0, so nothing is learned or measured there; "
                "correct the column, or set another [split]"
            )
    for task, found in one_class_tasks(counts, part=0).items():
        raise LogError(
            f"task {task!r}: the training part needs positives and negatives, found {found}; "
            "leave the task out, or choose another column, threshold or split"
        )
    return [
        DataWarning(kind="tasks", message=f"task {task!r}: {found} in the {name} part, so it can't be measured there")
        for part, name in enumerate(PARTS[1:], start=1)
        for task, found in one_class_tasks(counts, part=part).items()
    ]


def order_warnings(buckets: Buckets, schema: LogSchema) -> list[DataWarning]:
    """Warnings for request ids that begin anew, and for times without a time of day."""
    warnings = []
    if buckets.num_recurring:
        warnings.append(
            f"{schema.columns.request!r}: {buckets.num_recurring:,} requests have an id that an earlier request of "
            f"their user has; they count as separate requests, since more than {schema.requests.max_gap_seconds} "
            "seconds lie between (requests.max_gap_seconds)"
        )
    if buckets.dates_only:
        warnings.append(
            f"{schema.columns.time!r} holds dates without a time of day: within a day, exposures are in the order of "
            "the log, and none of them sees another"
        )
    return [DataWarning(kind="requests", message=message) for message in warnings]
