"""Scores for every exposure of a part, through the same builder and model that ranking uses."""

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from genrank.batch import PackedBatch
from genrank.data.loader import Loader
from genrank.data.pools import StoredData
from genrank.data.prepared import PreparedData
from genrank.data.sequence import SequenceBuilder
from genrank.data.weights import metric_weights
from genrank.evaluation.metrics import auc, gauc
from genrank.evaluation.predictions import Predictions, joined_column
from genrank.models.ranker import Ranker
from genrank.training.objective import SMALLEST, num_known


def validation_figures(model: Ranker, loaders: Iterable[Loader], task_weights: Mapping[str, float]) -> dict[str, float]:
    """Loss per task, AUC and GAUC per binary task, and `score`, the negative loss, by which weights are kept.

    loaders: of the part, or of each of its pools. Of a pool only scores, labels, users and weights are kept.
    """
    totals = {task: np.zeros(2) for task in model.outputs.heads}
    scores: dict[str, list[Tensor]] = {task.name: [] for task in model.spec.tasks if task.kind == "binary"}
    labels: dict[str, list[Tensor]] = {task: [] for task in scores}
    weights: dict[str, list[np.ndarray | None]] = {task: [] for task in scores}
    tasks = {task.name: task for task in model.spec.tasks}
    users, num_users = [], 0
    for loader in loaders:
        rows = [np.zeros(0, np.int64)]
        for batch, logits in _logits(model, loader):
            for task, loss in model.loss(logits, batch).items():
                c = batch.candidates
                totals[task] += [float(loss.sum()), float(num_known(c.labels[task], c.weight))]
            for task in scores:
                scores[task].append(logits[task].squeeze(-1))
                labels[task].append(batch.candidates.labels[task])
            rows.append(batch.candidates.exposure.cpu().numpy())
        builder, row = loader.builder, np.concatenate(rows)
        users.append(builder.user_of_row[row] + num_users)
        num_users += len(builder.timelines.users)
        for task in scores:
            weights[task].append(metric_weights(builder.timelines, tasks[task], row))
    figures = {f"loss/{task}": float(total[0] / max(total[1], SMALLEST)) for task, total in totals.items()}
    user = np.concatenate(users)
    for task in scores:
        score, label = (torch.cat(values).double().cpu().numpy() for values in (scores[task], labels[task]))
        known = ~np.isnan(label)
        weight = joined_column(weights[task])
        weight = None if weight is None else weight[known]
        values = {
            "auc": auc(score[known], label[known], weight),
            "gauc": gauc(score[known], label[known], user[known], weight).value,
        }
        figures |= {f"{name}/{task}": value for name, value in values.items() if value is not None and value == value}
    figures["score"] = -sum(task_weights.get(task, 1.0) * figures[f"loss/{task}"] for task in totals)
    return figures


def predict(model: Ranker, loader: Loader, data: PreparedData | StoredData) -> Predictions:
    """The model's predictions for every exposure of the loader's samples, in order of timelines."""
    scores = {task: [np.zeros(0)] for task in model.outputs.heads}
    rows = [np.zeros(0, np.int64)]
    for batch, logits in _logits(model, loader):
        rows.append(batch.candidates.exposure.cpu().numpy())
        for task, score in model.predict(logits, batch).items():
            scores[task].append(score.double().cpu().numpy())
    row = np.concatenate(rows)
    order = np.argsort(row, kind="stable")
    return predictions_of(row[order], {t: np.concatenate(s)[order] for t, s in scores.items()}, loader.builder, data)


def predictions_of(
    rows: np.ndarray, scores: Mapping[str, np.ndarray], builder: SequenceBuilder, data: PreparedData | StoredData
) -> Predictions:
    """Scores of the builder's `rows`, which are in order, with the columns that their evaluation needs."""
    t = builder.timelines
    user, item = t.users[builder.user_of_row[rows]], t.item[rows]
    first_time = data.items.first_time[item]
    labels = {name: column[rows].astype(np.float32) for name, column in t.tasks.items()}
    for name, column in t.tasks.items():
        if column.dtype == np.int8:
            labels[name][column[rows] < 0] = np.nan
    return Predictions(
        exposure=rows,
        user=user,
        item=item,
        request=builder.request_key[rows],
        time=t.time[rows],
        position=t.position[rows],
        history_length=(builder.visible_end[rows] - t.offsets[builder.user_of_row[rows]]).astype(np.int32),
        item_age=np.maximum(t.time[rows] - first_time, 0).astype(np.float64),
        item_train_count=data.items.train_count[item],
        user_train_count=data.users.train_count[user],
        labels=labels,
        censored={name: column[rows] for name, column in t.censored.items()},
        scores=scores,
        oracle={name: column[rows].astype(np.float64) for name, column in t.oracle.items()},
        weights={task.name: metric_weights(t, task, rows) for task in data.manifest.spec.tasks},
    )


@torch.no_grad()
def _logits(model: Ranker, loader: Loader) -> Iterator[tuple[PackedBatch, dict[str, Tensor]]]:
    device = next(model.parameters()).device
    model.eval()
    for batch in loader:
        batch = batch.to(device)
        yield batch, model(batch)
