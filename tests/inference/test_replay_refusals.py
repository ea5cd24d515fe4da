"""What a request log and its replay refuse or leave out, by line and reason; and addresses of stores."""

import json
import queue
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from genrank.artifacts.bundle import load_bundle
from genrank.data.manifest import Manifest
from genrank.errors import ConfigError, LogError, RequestError
from genrank.inference.gen_ranker import GenRanker, as_ids, check_value
from genrank.inference.replay import MAX_NAMED, Replayed, replay
from genrank.inference.request_log import RequestLog, ServedRanking
from genrank.inference.stores import open_store

USER, ITEMS = "u0000001", ("i0000001", "i0000002")


@pytest.fixture(scope="module")
def served(run: Path, data: Path) -> ServedRanking:
    """A ranking as the run gives it."""
    ranker = GenRanker.load(run)
    time = Manifest.load(data).split.last_time + 1
    found = ranker.rank(USER, ITEMS, time=time)
    return ServedRanking(
        model=ranker.bundle.version,
        user=USER,
        candidates=ITEMS,
        time=time,
        history=found.num_history,
        scores={place.item: dict(place.scores) for place in found.places},
    )


def written(path: Path, *rankings: ServedRanking) -> Path:
    path.write_text("".join(json.dumps(asdict(each)) + "\n" for each in rankings), encoding="utf-8")
    return path


def shifted(served: ServedRanking) -> ServedRanking:
    """With one score that is another than the model's."""
    first = {**served.scores[ITEMS[0]], "click": served.scores[ITEMS[0]]["click"] + 0.25}
    return replace(served, scores={**served.scores, ITEMS[0]: first})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"history": 9999}, "the service saw more past events"),
        ({"history": 0}, "the service saw fewer past events"),
        ({"history_current": False}, "the store of events was out of reach"),
        ({}, "unknown"),
    ],
)
def test_a_difference_is_found_and_its_reason_told(
    change: dict, reason: str, served: ServedRanking, run: Path, data: Path, tmp_path: Path
) -> None:
    log = written(tmp_path / "log", served, replace(shifted(served), **change))
    found: Replayed = replay(log, data, run=run)
    assert (found.rankings, found.different, found.reasons) == (2, 1, {reason: 1})
    assert found.largest == pytest.approx(0.25, abs=1e-5)
    assert found.worst is not None
    assert found.worst["reason"] == reason


def test_a_ranking_of_another_models_tasks_is_left_out_by_its_line(
    served: ServedRanking, run: Path, data: Path, tmp_path: Path
) -> None:
    strange = replace(served, scores={ITEMS[0]: {"purchase": 0.5}})
    found = replay(written(tmp_path / "log", served, strange), data, run=run)
    assert (found.rankings, found.unreadable) == (1, 1)
    assert (
        "line 2: can't be ranked by the model that it names (scores: there is no task 'purchase')"
        in (found.unreadable_at[0])
    )


def test_a_log_of_nothing_but_damage_is_refused_with_its_first_line(run: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "log").write_text("oops\n[]\n", encoding="utf-8")
    with pytest.raises(LogError, match=r"line 1: is not a complete served ranking.*expected a file of genrank serve"):
        replay(tmp_path / "log", data, run=run)


def test_a_log_without_rankings_is_refused(data: Path, tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"")
    with pytest.raises(LogError, match="log: holds no ranking; serve with --log-requests"):
        replay(tmp_path / "log", data)


def test_of_many_lines_that_can_not_be_read_the_first_are_named(
    served: ServedRanking, run: Path, data: Path, tmp_path: Path
) -> None:
    log = written(tmp_path / "log", served)
    log.write_text("oops\n" * (MAX_NAMED + 3) + log.read_text(encoding="utf-8"), encoding="utf-8")
    found = replay(log, data, run=run)
    assert (found.rankings, found.unreadable, len(found.unreadable_at)) == (1, MAX_NAMED + 3, MAX_NAMED)


def test_a_run_that_did_not_serve_the_log_is_refused(
    served: ServedRanking, run: Path, data: Path, tmp_path: Path
) -> None:
    log = written(tmp_path / "log", replace(served, model="0" * 16))
    with pytest.raises(LogError, match=f"by model {'0' * 16}, and .* holds {load_bundle(run).version}; give its --run"):
        replay(log, data, run=run)


def test_scores_of_what_was_no_candidate_are_no_ranking(served: ServedRanking) -> None:
    with pytest.raises(ValueError, match="scores of items that are no candidates"):
        replace(served, candidates=ITEMS[:1])


def test_what_waits_too_long_for_the_disk_is_counted_and_left_out(served: ServedRanking, tmp_path: Path) -> None:
    log = RequestLog(tmp_path / "log")
    log._waiting.put(None)
    log._thread.join()  # as a disk that takes nothing
    log._waiting = queue.Queue(1)
    for _ in range(3):
        log.note(served, tmp_path)
    assert log.dropped == 2


def test_a_text_in_the_place_of_a_list_is_no_list_of_ids() -> None:
    with pytest.raises(RequestError, match="exclude: expected a list of ids, found the text 'i1'; put it in a list"):
        as_ids("exclude", "i1")


@pytest.mark.parametrize("weight", [float("inf"), float("nan"), True, "1", 1e19])
def test_a_weight_that_makes_sums_no_number_is_refused(weight: object, data: Path) -> None:
    with pytest.raises(RequestError, match=r"the weight of click is .*; give a finite number, from -1e18"):
        check_value({"click": weight}, Manifest.load(data).spec)  # type: ignore[dict-item]


@pytest.mark.parametrize("where", ["redis:secret@host:6379", "me:secret@host/0", "unix:secret@sock"])
def test_an_address_without_its_scheme_is_refused_and_its_password_not_shown(where: str) -> None:
    with pytest.raises(ConfigError, match="lacks its redis://") as raised:
        open_store(where)
    assert "secret" not in str(raised.value)
