"""Duration heads: from logits to expected seconds, and to a loss per candidate. Five heads with one interface:

    predict(logits_CK, group_C=None) -> (C) expected seconds
    loss(logits_CK, label_C, censored_C=None, group_C=None) -> (C), 0 where the label is NaN

`label_C` is in seconds. A censored label c says only that the duration is at least c: a larger prediction has no loss.
`group_C` (int64) is the candidate's duration group, which only D2Q reads. Losses measure seconds in units of the
training part's mean, so that every loss is of order one.

Shapes: C candidates, K logits, Q quantiles of a group.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from genrank.schema import TaskSpec

DurationHead = Literal["ordinal", "regression", "wlr", "d2q", "quantile"]


class Constant:
    """A tensor of fixed numbers that is copied to a device once, not at every use, for which the host would wait."""

    def __init__(self, values: Tensor):
        self.values = values
        self._copies: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def like(self, other: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """The numbers on the device of `other`, in `dtype`, or in their type if it is None."""
        key = (other.device, dtype or self.values.dtype)
        if key not in self._copies:
            with torch.inference_mode(False):  # or training could not use a copy that serving made
                self._copies[key] = self.values.to(*key)
        return self._copies[key]


MAX_LOG = 10.0  # predictions stop at e^10, 22,000 times the mean, where float32 is far from overflow; ours


class OrdinalDurationHead:
    """A distribution over the training part's duration buckets: one logit per bucket edge e_k, for P(t >= e_k).

    As in CREAD (arXiv 2401.07521) without its error-adaptive edges. Its mean is

        E[t] = m_0 + Σ_k P(t >= e_k) (m_k - m_{k-1}),    m_k the mean duration of bucket k in training,

    and a censored duration c trains only the edges up to c.
    """

    def __init__(self, task: TaskSpec):
        self.edges = Constant(torch.tensor(task.boundaries, dtype=torch.float32))
        means = task.means or (*task.boundaries, task.boundaries[-1])
        self.first, self.steps = means[0], Constant(torch.tensor(means, dtype=torch.float32).diff())
        self.num_logits = len(task.boundaries)

    def predict(self, logits_CK: Tensor, group_C: Tensor | None = None) -> Tensor:
        """(C) expected seconds."""
        # P(t >= e_k) falls with k; the running minimum enforces this where the logits don't.
        at_least_CK = torch.cummin(torch.sigmoid(logits_CK), dim=-1).values
        return self.first + at_least_CK @ self.steps.like(logits_CK, logits_CK.dtype)

    def loss(
        self, logits_CK: Tensor, label_C: Tensor, censored_C: Tensor | None = None, group_C: Tensor | None = None
    ) -> Tensor:
        """(C) mean cross-entropy over the edges; NaN labels give 0."""
        reached_CK = label_C[:, None] >= self.edges.like(label_C)
        known_CK = ~label_C.isnan()[:, None] & torch.ones_like(reached_CK)
        if censored_C is not None:
            known_CK &= reached_CK | ~censored_C[:, None]
        loss_CK = F.binary_cross_entropy_with_logits(logits_CK, reached_CK.to(logits_CK), reduction="none")
        return torch.where(known_CK, loss_CK, 0.0).mean(-1)


class RegressionDurationHead:
    """Seconds by squared error: the simplest head. A censored duration has no loss where more is predicted."""

    num_logits = 1

    def __init__(self, task: TaskSpec):
        self.scale = mean_seconds(task)

    def predict(self, logits_C1: Tensor, group_C: Tensor | None = None) -> Tensor:
        """(C) expected seconds."""
        return logits_C1.squeeze(-1).clamp_min(0) * self.scale

    def loss(
        self, logits_C1: Tensor, label_C: Tensor, censored_C: Tensor | None = None, group_C: Tensor | None = None
    ) -> Tensor:
        """(C) squared error; NaN labels give 0."""
        error_C = logits_C1.squeeze(-1) - label_C.nan_to_num() / self.scale
        if censored_C is not None:
            error_C = torch.where(censored_C, error_C.clamp_max(0), error_C)
        return torch.where(label_C.isnan(), 0.0, error_C.square())


class WLRDurationHead:
    """Weighted logistic regression (Covington et al. 2016), in the form of CREAD's baselines (arXiv 2401.07521):

        y = t / (1 + t), cross-entropy weighted by 1 + t:   L = t · softplus(-z) + softplus(z),   t̂ = e^z.

    L is smallest at e^z = t, so the prediction is the conditional mean. A censored duration c has no loss where
    e^z >= c.
    """

    num_logits = 1

    def __init__(self, task: TaskSpec):
        self.scale = mean_seconds(task)

    def predict(self, logits_C1: Tensor, group_C: Tensor | None = None) -> Tensor:
        """(C) expected seconds."""
        return logits_C1.squeeze(-1).clamp_max(MAX_LOG).exp() * self.scale

    def loss(
        self, logits_C1: Tensor, label_C: Tensor, censored_C: Tensor | None = None, group_C: Tensor | None = None
    ) -> Tensor:
        """(C) weighted cross-entropy; NaN labels give 0."""
        z_C, t_C, ignored_C = logits_C1.squeeze(-1), label_C.nan_to_num() / self.scale, label_C.isnan()
        if censored_C is not None:
            ignored_C = ignored_C | (censored_C & (z_C.detach() >= t_C.log()))
        return torch.where(ignored_C, 0.0, t_C * F.softplus(-z_C) + F.softplus(z_C))


class D2QDurationHead:
    """Duration-deconfounded quantile (Zhan et al. 2022, arXiv 2206.06003): the rank of a duration within its group.

        r = F_g(t) in [0, 1],   r̂ = σ(z),   t̂ = F_g⁻¹(r̂),   F_g piecewise linear through the group's quantiles.

    The loss is the cross-entropy of r̂ against r (ours; the paper's is the squared error. Both are smallest at E[r], and
    the cross-entropy keeps its gradient where σ is flat). A value that fills several quantiles, such as a play time of
    0, has the middle of their ranks. A censored duration has no loss where a higher rank is predicted.

    F_g⁻¹(E[r]) is not E[t]: a candidate like its whole group gets the group's median, which for durations, skewed to
    the right, is below the mean. This head is for the order within a group; its sums of seconds are biased.

    Rows of `task.group_quantiles` are groups by index, their columns equally spaced levels from 0 to 1. Without them
    there is one group, whose quantiles are the bucket edges, which have about equally spaced levels in training, and
    two ends, chosen so that the first and last bucket have their means in the middle.
    """

    num_logits = 1

    def __init__(self, task: TaskSpec):
        quantiles = task.group_quantiles or (_overall_quantiles(task),)
        self.quantiles_GQ = Constant(torch.tensor(quantiles, dtype=torch.float32))

    def predict(self, logits_C1: Tensor, group_C: Tensor | None = None) -> Tensor:
        """(C) seconds at the predicted rank of each candidate's group, of group 0 where there are no groups."""
        quantiles_CQ = self._quantiles(logits_C1, group_C)
        last = quantiles_CQ.shape[1] - 1
        level_C1 = torch.sigmoid(logits_C1) * last
        below_C1 = level_C1.detach().long().clamp_max(last - 1)
        low_C1, high_C1 = quantiles_CQ.gather(1, below_C1), quantiles_CQ.gather(1, below_C1 + 1)
        return (low_C1 + (level_C1 - below_C1) * (high_C1 - low_C1)).squeeze(-1)

    def loss(
        self, logits_C1: Tensor, label_C: Tensor, censored_C: Tensor | None = None, group_C: Tensor | None = None
    ) -> Tensor:
        """(C) cross-entropy of the rank; NaN labels give 0."""
        z_C, ignored_C = logits_C1.squeeze(-1), label_C.isnan()
        rank_C = self.rank(label_C.nan_to_num(), group_C).to(z_C)
        if censored_C is not None:
            ignored_C = ignored_C | (censored_C & (torch.sigmoid(z_C.detach()) >= rank_C))
        return torch.where(ignored_C, 0.0, F.binary_cross_entropy_with_logits(z_C, rank_C, reduction="none"))

    def rank(self, seconds_C: Tensor, group_C: Tensor | None = None) -> Tensor:
        """(C) F_g of each duration, 0 to 1: the mean over the quantiles' intervals of the share that lies below."""
        quantiles_CQ = self._quantiles(seconds_C, group_C)
        past_CQ, widths_CQ = seconds_C[:, None] - quantiles_CQ[:, :-1], quantiles_CQ.diff(dim=-1)
        shares_CQ = (past_CQ / widths_CQ.clamp_min(1e-12)).clamp(0, 1)
        return torch.where(widths_CQ > 0, shares_CQ, (1 + past_CQ.sign()) / 2).mean(-1)

    def _quantiles(self, like_C: Tensor, group_C: Tensor | None) -> Tensor:
        group_C = torch.zeros(len(like_C), dtype=torch.int64, device=like_C.device) if group_C is None else group_C
        return self.quantiles_GQ.like(like_C)[group_C]


class QuantileDurationHead:
    """A distribution given by its quantiles at levels τ_k = (k + 1/2) / K, K = 16 (ours), as in CQE (arXiv 2407.12223):

        v_k = z_0 + b_0 + Σ_{1<=j<=k} softplus(z_j + b_j)   in the space v = log(1 + t / mean),
        L = 1/K Σ_k max(τ_k (v - v_k), (τ_k - 1) (v - v_k)).

    The b_j are such that zero logits give the quantiles of an exponential distribution (ours).

    The prediction is the mean over k of the quantiles mapped back to seconds. It ignores the tail beyond τ_{K-1}, so
    with a heavy tail it is below the mean. With a censored duration c, quantiles above c have no loss, and the others
    are pulled up to c.
    """

    num_logits = 16

    def __init__(self, task: TaskSpec):
        self.scale = mean_seconds(task)
        levels_K = (torch.arange(self.num_logits) + 0.5) / self.num_logits
        start_K = torch.log1p(-torch.log1p(-levels_K))
        start_K = torch.cat([start_K[:1], start_K.diff().expm1().log()])  # softplus(log(e^s - 1)) = s
        self.levels, self.start = Constant(levels_K), Constant(start_K)

    def predict(self, logits_CK: Tensor, group_C: Tensor | None = None) -> Tensor:
        """(C) expected seconds."""
        return self.quantiles(logits_CK).clamp(0, MAX_LOG).expm1().mean(-1) * self.scale

    def loss(
        self, logits_CK: Tensor, label_C: Tensor, censored_C: Tensor | None = None, group_C: Tensor | None = None
    ) -> Tensor:
        """(C) mean pinball loss over the levels; NaN labels give 0."""
        levels_K = self.levels.like(logits_CK, logits_CK.dtype)
        value_C = (label_C.nan_to_num() / self.scale).log1p()
        above_CK = value_C[:, None] - self.quantiles(logits_CK)
        if censored_C is not None:
            above_CK = torch.where(censored_C[:, None], above_CK.clamp_min(0), above_CK)
        loss_C = torch.maximum(levels_K * above_CK, (levels_K - 1) * above_CK).mean(-1)
        return torch.where(label_C.isnan(), 0.0, loss_C)

    def quantiles(self, logits_CK: Tensor) -> Tensor:
        """(C, K) values that rise with k, in log(1 + seconds / mean)."""
        first_C1, steps_CK = (logits_CK + self.start.like(logits_CK, logits_CK.dtype)).tensor_split([1], -1)
        return torch.cat([first_C1, F.softplus(steps_CK)], -1).cumsum(-1)


def mean_seconds(task: TaskSpec) -> float:
    """About the mean duration of the training part: the mean of the bucket means, because buckets are about equal."""
    means = task.means or task.boundaries
    return max(sum(means) / len(means), 1e-6)


def _overall_quantiles(task: TaskSpec) -> tuple[float, ...]:
    edges, means = task.boundaries, task.means or (*task.boundaries, task.boundaries[-1])
    return (max(0.0, 2 * means[0] - edges[0]), *edges, 2 * means[-1] - edges[-1])
