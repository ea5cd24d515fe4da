"""Served scores are evaluation's, through a real server; and what it logged is what replay computes."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from conftest_service import Running
from genrank.artifacts.bundle import load_bundle
from genrank.cli import main
from genrank.data.loader import Loader, LoaderConfig
from genrank.data.prepared import PreparedData
from genrank.errors import LogError, OutputError
from genrank.evaluation.metrics import auc
from genrank.inference.replay import replay
from genrank.inference.request_log import RequestLog
from genrank.runs.predict import predict, predictions_of
from genrank.server.parity import serve_part

Serve = Callable[..., Running]


def both_ways(serve: Serve, run: Path, log: Path) -> int:
    """Serve the test part and replay it; how many scores were compared."""
    bundle = load_bundle(run)
    data = PreparedData.load(Path(bundle.config.data))
    builder = data.builder(bundle.config.sequence, bundle.config.model.search)
    loader = Loader(builder, data.part(builder, "test"), LoaderConfig(shuffle=False))
    offline = predict(bundle.model(), loader, data)
    running = serve("--until", str(data.manifest.split.test_start), "--log-requests", str(log), folder=run)
    with running.client(timeout=60) as client:
        found = serve_part(client, data, builder)
    assert running.stop() == 0
    np.testing.assert_array_equal(found.rows, offline.exposure)
    served = predictions_of(found.rows, found.scores, builder, data)
    for task, scores in offline.scores.items():
        np.testing.assert_allclose(served.scores[task], scores, atol=1e-5, rtol=1e-5)
        if task not in offline.censored:
            label = offline.labels[task]
            known = ~np.isnan(label)
            assert auc(served.scores[task][known], label[known]) == pytest.approx(
                auc(scores[known], label[known]), abs=1e-4
            )
    again = replay(log, Path(bundle.config.data))
    assert again.rankings == len(np.unique(offline.request))
    assert again.different == 0, again
    assert again.largest < 1e-5
    return again.scores


def test_the_simulated_feed(serve: Serve, run: Path, tmp_path: Path) -> None:
    assert both_ways(serve, run, tmp_path / "served.jsonl") > 1000


def test_a_feed_with_window_statistics(serve: Serve, counted: Path, tmp_path: Path) -> None:
    assert both_ways(serve, counted, tmp_path / "served.jsonl") > 300


def test_replay_says_why_scores_differ(
    serve: Serve, run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "logs" / "served.jsonl"
    running = serve("--log-requests", str(log))
    later = 1_790_000_000
    with running.client() as client:
        client.rank("somebody", ["i00000001", "i00000002"], time=later)
        client.send_events([{"user": "somebody", "item": "i00000001", "time": later, "actions": {"click": True}}])
        client.rank("somebody", ["i00000001", "i00000002"], time=later + 100, top_k=1, tasks=["click"])
    running.stop()
    capsys.readouterr()
    assert main(["replay", str(log), "--data", str(data), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["rankings"], found["different"]) == (2, 1)
    assert found["reasons"] == {"the service saw more past events": 1}
    assert found["worst"]["user"] == "somebody"
    assert main(["replay", str(log), "--data", str(data), "--limit", "1", "--run", str(run)]) == 0
    assert "0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "holds no ranking"),
        ('{"model": "m"}\n', "line 1: is not a complete served ranking"),
        ("user,item\n", "line 1: is not a complete served ranking"),
        (
            '{"model": "m", "user": "u", "candidates": [], "time": 1, "history": 0, "scores": {}}\n',
            "no line before it names the bundle",
        ),
    ],
)
def test_what_is_no_log(content: str, said: str, data: Path, tmp_path: Path) -> None:
    (tmp_path / "log").write_text(content)
    with pytest.raises(LogError, match=said):
        replay(tmp_path / "log", data)


def test_a_log_that_cannot_be_written(data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="--log-requests"):
        RequestLog(tmp_path / "file" / "log")
    with pytest.raises(LogError, match="can't be read"):
        replay(tmp_path / "nowhere", data)


def test_a_full_disk_costs_the_log_only(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    from genrank.inference.request_log import ServedRanking

    log = RequestLog(Path("/dev/full"))
    for _ in range(3):
        log.note(ServedRanking(model="m", user="u", candidates=("i",), time=1, history=0, scores={}), Path("x"))
    log.close()
    assert log.dropped >= 1
    assert "/dev/full" in caplog.text
