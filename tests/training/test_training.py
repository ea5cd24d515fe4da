import errno
from pathlib import Path

import numpy as np
import pytest
import torch

from genrank.errors import BundleError, OutputError, TrainingDiverged
from genrank.nn.embeddings import Table
from genrank.nn.heads import OrdinalDurationHead
from genrank.training.checkpoint import Checkpoints
from genrank.training.optimizers import RowWiseAdagrad, learning_rate_scale, native_update, plain_update
from genrank.training.progress import RunningMetrics
from tiny_trainer import trainer
from worlds import SPEC


def test_row_wise_adagrad_is_its_equation_and_touches_looked_up_rows_only() -> None:
    torch.manual_seed(0)
    table = Table(6, 3)
    before = table.weight.detach().clone()
    optimizer = RowWiseAdagrad([table.weight], lr=0.1)
    total = torch.zeros(6)
    expected = before.clone()
    for index in ([1, 4, 1], [4]):
        optimizer.zero_grad()
        (table(torch.tensor(index)).square().sum()).backward()
        gradient = torch.zeros(6, 3)
        for row in index:
            gradient[row] += 2 * expected[row]
        optimizer.step()
        rows = sorted(set(index))
        total[rows] += gradient[rows].square().mean(1)
        expected[rows] -= 0.1 * gradient[rows] / (total[rows].sqrt() + 1e-10)[:, None]
    torch.testing.assert_close(table.weight.detach(), expected)
    assert torch.equal(table.weight[[0, 2, 3, 5]], before[[0, 2, 3, 5]])


@pytest.mark.parametrize("threads", [1, 2])
def test_the_update_in_cpp_equals_the_one_in_pytorch_whatever_repeats(threads) -> None:
    random = torch.Generator().manual_seed(0)
    rows = torch.randint(0, 300, (5000,), generator=random)
    values = torch.randn(5000, 20, generator=random)
    weights, sums = [torch.randn(400, 20, generator=random)], [torch.rand(400, generator=random)]
    weights.append(weights[0].clone())
    sums.append(sums[0].clone())
    group = {"lr": 0.1, "weight_decay": 0.01, "eps": 1e-10}
    for weight in weights:
        weight.grad = torch.sparse_coo_tensor(rows[None], values, weight.shape, check_invariants=False)
    torch.set_num_threads(threads)
    try:
        native_update(weights[0], sums[0], **group)
    finally:
        torch.set_num_threads(1)
    plain_update(weights[1:], sums[1:], **group)
    torch.testing.assert_close(weights[0], weights[1])
    torch.testing.assert_close(sums[0], sums[1])


def test_tables_that_are_updated_together_are_updated_as_each_alone() -> None:
    random = torch.Generator().manual_seed(0)
    tables = [torch.randn(size, 3, generator=random) for size in (7, 1, 4)]
    sums = [torch.rand(len(table), generator=random) for table in tables]
    alone, sums_alone = [table.clone() for table in tables], [total.clone() for total in sums]
    for rows, *both in zip(([6, 0, 6, 6], [0, 0], []), tables, alone, strict=True):
        values = torch.randn(len(rows), 3, generator=random)
        index = torch.tensor(rows, dtype=torch.int64)[None]
        for table in both:
            table.grad = torch.sparse_coo_tensor(index, values, table.shape, check_invariants=False)
    before = tables[2].clone()
    group = {"lr": 0.1, "weight_decay": 0.01, "eps": 1e-10}
    plain_update(tables, sums, **group)
    for table, total in zip(alone[:2], sums_alone[:2], strict=True):
        native_update(table, total, **group)
    for one, other in zip(tables + sums, alone + sums_alone, strict=True):
        torch.testing.assert_close(one, other)
    assert torch.equal(tables[2], before)


def test_an_update_of_no_rows_changes_nothing() -> None:
    weight, total = torch.ones(3, 2), torch.ones(3)
    weight.grad = torch.sparse_coo_tensor(
        torch.zeros(1, 0, dtype=torch.int64), torch.zeros(0, 2), (3, 2), check_invariants=True
    )
    native_update(weight, total, lr=0.5, weight_decay=0.5, eps=1e-10)
    assert torch.equal(weight, torch.ones(3, 2))
    assert torch.equal(total, torch.ones(3))


def test_an_update_beyond_the_table_is_refused() -> None:
    weight = torch.zeros(3, 2)
    weight.grad = torch.sparse_coo_tensor([[5]], torch.ones(1, 2), (3, 2), check_invariants=False)
    with pytest.raises(IndexError, match="within the 3 of the table"):
        native_update(weight, torch.zeros(3), lr=0.1, weight_decay=0.0, eps=1e-10)


def test_the_learning_rate_warms_up_and_decays() -> None:
    scales = [learning_rate_scale(step, 100, warmup=0.1, final=0.05) for step in range(101)]
    assert scales[0] == pytest.approx(0.1)
    assert max(scales) == scales[10] == 1
    assert scales[100] == pytest.approx(0.05)


def test_a_loss_that_is_no_number_stops_with_the_last_good_checkpoint(tmp_path: Path) -> None:
    run = trainer(tmp_path, checkpoint_steps=1)
    run.save()
    with torch.no_grad():
        run.model.mask_action.fill_(float("nan"))
    with pytest.raises(
        TrainingDiverged, match=r"loss is nan at step 0.*last good checkpoint is step-00000000.*learning_rate"
    ):
        run.fit()
    assert run.checkpoints.latest() is not None


def test_a_full_disk_keeps_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trainer(tmp_path)
    kept = run.save()

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("genrank.training.checkpoint.save_file", full)
    run.step = 7
    with pytest.raises(OutputError, match=r"No space left on device.*--resume.*step-00000000"):
        run.save()
    assert run.checkpoints.latest() == kept
    assert not list((tmp_path / "checkpoints").glob(".*part*"))


def test_only_the_newest_two_checkpoints_are_kept(tmp_path: Path) -> None:
    trainer(tmp_path, checkpoint_steps=2).fit()
    assert len(list((tmp_path / "checkpoints").glob("step-*"))) == 2


def test_the_checkpoint_that_was_just_written_is_kept_though_later_steps_are_there(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for step in (8, 9, 3):  # a run that was begun anew in the folder
        checkpoints.save(step, {"weight": torch.tensor([float(step)])}, {"step": step})
    assert sorted(path.name for path in tmp_path.glob("step-*")) == ["step-00000003", "step-00000008", "step-00000009"]
    latest = checkpoints.latest()
    assert latest is not None
    assert Checkpoints.load(latest)[0]["weight"].tolist() == [3.0]


def test_without_validation_the_last_weights_are_kept(tmp_path: Path) -> None:
    run = trainer(tmp_path, epochs=1)
    run.validate = None
    before = {name: weight.clone() for name, weight in run.model.state_dict().items()}
    run.fit()
    assert run.step == run.num_steps
    assert (run.best_weights, run.best_step) == ({}, 0)
    assert any(not torch.equal(weight, before[name]) for name, weight in run.model.state_dict().items())
    latest = run.checkpoints.latest()
    assert latest is not None
    kept, _ = Checkpoints.load(latest)
    assert all(torch.equal(weight, kept[f"model.{name}"]) for name, weight in run.model.state_dict().items())


@pytest.mark.parametrize(("precision", "half"), [("auto", False), ("fp32", False), ("bf16", True)])
def test_a_cpu_computes_in_half_precision_only_where_it_is_told_to(tmp_path: Path, precision: str, half: bool) -> None:
    with trainer(tmp_path, precision=precision).autocast():
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype is (torch.bfloat16 if half else torch.float32)


def test_training_stops_when_validation_no_longer_improves_and_keeps_the_best(tmp_path: Path) -> None:
    run = trainer(tmp_path, epochs=9, patience=2)
    scores = iter([0.1, 0.5, 0.4, 0.3, 0.9, 0.9, 0.9, 0.9, 0.9])
    seen = []

    def validate() -> dict[str, float]:
        seen.append(run.model.mask_action.detach().clone())
        return {"score": next(scores)}

    run.validate = validate
    run.fit()
    assert len(seen) == 4
    assert torch.equal(run.model.mask_action, seen[1])


def test_a_checkpoint_whose_best_weights_another_figure_chose_is_refused(tmp_path: Path) -> None:
    path = trainer(tmp_path, select="click.auc").save()
    trainer(tmp_path, select="click.auc").restore(path)
    with pytest.raises(BundleError, match=r"chosen by click.auc, and training.select is now the sum of losses"):
        trainer(tmp_path).restore(path)


def test_running_metrics_equal_the_batch_wise_ones() -> None:
    random = np.random.default_rng(0)
    logits, labels = torch.tensor(random.normal(size=(400, 1))), torch.tensor(random.integers(0, 2, 400).astype(float))
    labels[:20] = float("nan")
    running = RunningMetrics(["click"], ["click"], torch.device("cpu"))
    for part in range(0, 400, 100):
        chosen = slice(part, part + 100)
        losses = {"click": torch.where(labels[chosen].isnan(), 0.0, 2.0)}
        running.add(losses, {"click": logits[chosen]}, {"click": labels[chosen]})
    read = running.read()
    known = ~labels.isnan().numpy()
    from genrank.evaluation.metrics import auc

    assert read["loss/click"] == pytest.approx(2.0)
    assert read["auc/click"] == pytest.approx(auc(logits[:, 0].numpy()[known], labels.numpy()[known]), abs=0.005)


def test_a_censored_duration_teaches_only_what_was_seen() -> None:
    head = OrdinalDurationHead(SPEC.tasks[1])
    logits = torch.zeros(2, 3, requires_grad=True)
    seconds = torch.tensor([3.0, 3.0])
    head.loss(logits, seconds, torch.tensor([False, True])).sum().backward()
    assert (logits.grad[0] != 0).tolist() == [True, True, True]
    assert (logits.grad[1] != 0).tolist() == [True, False, False]


def test_the_ordinal_head_predicts_the_mean_of_its_distribution() -> None:
    head = OrdinalDurationHead(SPEC.tasks[1])
    certain = torch.tensor([[9.0, 9.0, -9.0], [-9.0, -9.0, -9.0]]) * 5
    assert head.predict(certain).tolist() == pytest.approx([7.0, 1.0])
