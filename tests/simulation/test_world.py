"""What must be true of the feed world for a ranker to be judged on it."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from genrank.simulation.oracle import StreamingAuc
from genrank.simulation.simulated_items import DAY, START

TASKS = ("click", "like", "follow")


def auc(scores, labels):
    oracle = StreamingAuc()
    oracle.add(np.asarray(scores, np.float32), np.asarray(labels, bool))
    return oracle.value()


def test_rates_are_those_of_a_feed(log):
    assert 0.10 <= log["click"].mean() <= 0.25
    assert 0.1 <= log["like"].sum() / log["click"].sum() <= 0.4
    assert 0.001 <= log["follow"].mean() <= 0.03


@pytest.mark.parametrize("task", TASKS)
def test_probabilities_are_calibrated_within_bins(log, task):
    p, y = log[f"p_{task}"].astype(np.float64), log[task]
    assert p.min() >= 0
    assert p.max() <= 1
    for bin_ in np.array_split(np.argsort(p), 10):
        sigma = np.sqrt((p[bin_] * (1 - p[bin_])).sum())
        assert abs(y[bin_].sum() - p[bin_].sum()) < 4.5 * sigma + 1e-9


@pytest.mark.parametrize("device", ["phone", "tablet", "desktop"])
def test_probabilities_are_calibrated_within_slices(log, device):
    rows = log["device"] == device
    p = log["p_click"][rows].astype(np.float64)
    assert abs(log["click"][rows].sum() - p.sum()) < 4.5 * np.sqrt((p * (1 - p)).sum())


def test_likes_and_follows_and_stays_come_after_clicks(log):
    ignored = log["click"] == 0
    assert not log["like"][ignored].any()
    assert not log["follow"][ignored].any()
    assert np.isnan(log["dwell_ms"][ignored]).all()
    assert not np.isnan(log["dwell_ms"][~ignored]).any()
    assert not log["dwell_censored"][ignored].any()


def test_longer_stays_are_liked_more(log):
    clicked = (log["click"] == 1) & ~log["dwell_censored"]
    assert auc(log["dwell_ms"][clicked] / 1e6, log["like"][clicked]) > 0.6


def test_follows_are_likelier_after_likes(log):
    clicked = log["click"] == 1
    liked, rest = clicked & (log["like"] == 1), clicked & (log["like"] == 0)
    assert log["follow"][liked].mean() > 2 * log["follow"][rest].mean()


def test_early_slots_are_clicked_more_in_random_traffic(log):
    random, position = log["is_random"], log["position"]
    early, late = log["p_click"][random & (position <= 1)], log["p_click"][random & (position >= 5)]
    standard_error = np.sqrt(early.var() / early.size + late.var() / late.size)
    assert early.mean() - late.mean() > 3 * standard_error


def test_random_traffic_has_its_share(log):
    assert 0.10 < log["is_random"].mean() < 0.20


def test_rates_of_items_and_users_close_less_than_half_of_the_gap(log):
    click, num_train = log["click"], int(0.8 * log["click"].size)  # rows are in order of time
    base = click[:num_train].mean()
    items, users = (np.unique(log[name], return_inverse=True)[1] for name in ("item_id", "user_id"))
    score = np.zeros(click.size - num_train)
    for ids, prior in ((items, 20), (users, 10)):
        shown = np.bincount(ids[:num_train], minlength=ids.max() + 1)
        clicked = np.bincount(ids[:num_train], click[:num_train], minlength=ids.max() + 1)
        rate = (clicked + prior * base) / (shown + prior)
        score += np.log(rate / (1 - rate))[ids[num_train:]]
    reached = auc(1 / (1 + np.exp(-score)), click[num_train:]) - 0.5
    oracle = auc(log["p_click"][num_train:], click[num_train:]) - 0.5
    assert oracle > 0.28
    assert 0.1 < reached / oracle < 0.5


def test_topics_clicked_in_the_request_before_are_clicked_again(log, topic_of):
    order = np.lexsort((log["position"], log["request_id"], log["user_id"]))
    user, request, click, item = (log[name][order] for name in ("user_id", "request_id", "click", "item_id"))
    topic = [topic_of[name] for name in item]
    number = np.cumsum(np.concatenate([[True], request[1:] != request[:-1]]))  # users' requests follow one another
    owned_click = {key for key, yes in zip(zip(user, number, topic, strict=True), click, strict=True) if yes}
    again = np.array([(u, n - 1, t) in owned_click for u, n, t in zip(user, number, topic, strict=True)])
    assert click[again].mean() > 2 * click[~again].mean()


def test_new_items_are_shown_on_every_day(log):
    day = (log["timestamp"] - START) // DAY
    fresh = log["item_age_hours"] < 24
    for number in range(7):
        assert fresh[day == number].mean() > 0.05
    first_seen = {}
    for item, shown in zip(log["item_id"], day, strict=True):
        first_seen.setdefault(item, shown)
    assert set(first_seen.values()) == set(range(7))


def test_times_lie_within_the_period_and_no_item_precedes_its_publication(log):
    assert log["timestamp"].min() >= START
    assert log["timestamp"].max() < START + 7 * DAY
    assert log["item_age_hours"].min() >= 0


def test_a_request_belongs_to_one_user_and_moment_and_repeats_no_item(log):
    _, start, size = np.unique(log["request_id"], return_index=True, return_counts=True)
    for name in ("user_id", "timestamp", "is_random", "device"):
        assert (log[name] == np.repeat(log[name][start], size)).all()
    assert (log["position"] == np.arange(size.sum()) - np.repeat(start, size)).all()
    assert size.max() <= 10
    pairs = set(zip(log["request_id"], log["item_id"], strict=True))
    assert len(pairs) == log["click"].size


def test_the_next_request_comes_after_the_stays_of_the_last(log):
    order = np.lexsort((log["position"], log["request_id"], log["user_id"]))
    user, time, request = (log[name][order] for name in ("user_id", "timestamp", "request_id"))
    stay = np.nan_to_num(log["dwell_ms"][order]) / 1000
    start = np.flatnonzero(np.concatenate([[True], request[1:] != request[:-1]]))
    total = np.add.reduceat(stay, start)
    same = user[start][1:] == user[start][:-1]
    assert (time[start][1:] - time[start][:-1] >= total[:-1])[same].all()


def test_activity_is_heavy_tailed(log):
    _, count = np.unique(log["user_id"], return_counts=True)
    busiest = np.sort(count)[-count.size // 10 :]
    assert busiest.sum() > 0.25 * count.sum()


def test_content_embeddings_tell_topics_apart(world):
    folder, _ = world
    topic = pq.read_table(folder / "items.parquet")["topic"].to_numpy()
    content = np.load(folder / "content.npy")
    assert content.shape == (topic.size, 32)
    assert content.dtype == np.float32
    names, index = np.unique(topic, return_inverse=True)
    centres = np.stack([content[::2][index[::2] == number].mean(axis=0) for number in range(names.size)])
    nearest = (content[1::2] @ centres.T - (centres**2).sum(axis=1) / 2).argmax(axis=1)
    assert (nearest == index[1::2]).mean() > 0.9
