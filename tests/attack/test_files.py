"""Every file that a command reads goes bad in every way, and every command says so in one line.

A command ends with 0 or 2, without a traceback, and with 0 only if its answer is that of the whole file. A line that
blames a fault of genrank's own fails the test as well: what can happen to a file is refused in words of its own.
"""

import json
import shutil
import signal
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from attack.mutations import BROKEN, Mutation, edits, mutated
from genrank.artifacts.bundle import load_bundle
from genrank.cli import main
from genrank.cli.command_line import FAULT
from genrank.data.manifest import Manifest
from genrank.errors import GenRankError
from genrank.inference.gen_ranker import GenRanker
from genrank.inference.request_log import RequestLog, ServedRanking
from genrank.inference.sqlite_store import SQLiteStore
from genrank.inference.store import Event

pytestmark = pytest.mark.slow
NUM_EDITS = 24  # values of a JSON file that become others
LONGEST = 120  # seconds until a command hangs
ITEMS = '["i00000001", "i00000002", "i00000003"]'
Answer = tuple[int, str, str]
Ask = Callable[..., Answer]


@contextmanager
def in_time() -> Iterator[None]:
    def late(*_: object) -> None:
        raise TimeoutError("hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(LONGEST)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Ask:
    """Runs a command: exit code, stdout, stderr."""

    def run(*arguments: object) -> Answer:
        capsys.readouterr()
        with in_time():
            code = main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def wrong(answer: Answer, whole: str | None) -> str:
    """What is wrong with an answer; empty: nothing. whole: the answer of whole files, where it must be the same."""
    code, out, err = answer
    lines = [line for line in err.splitlines() if line.startswith("genrank: ")]
    if code not in (0, 2) or "Traceback" in err or FAULT in err:
        return f"exit code {code}: {err[-400:]}"
    if code == 2 and (len(lines) != 1 or len(lines[0]) > 1500):
        return f"{len(lines)} lines of {[len(line) for line in lines]} letters: {err[-400:]}"
    if code == 0 and whole is not None and out != whole:
        return f"another answer: {out[:200]}"
    return ""


def attack(ask: Ask, command: Sequence[object], path: Path, ways: dict[str, Mutation], *, same: bool = True) -> int:
    """Run the command with the file gone bad in each of the ways; how many. Fails with a list of what went wrong."""
    code, whole, err = ask(*command)
    assert code == 0, err
    found = []
    for name, mutation in ways.items():
        with mutated(path, mutation, seed=f"{path.name} {name}"):
            try:
                problem = wrong(ask(*command), whole if same else None)
            except Exception as raised:  # noqa: BLE001 - what main lets through
                problem = f"{type(raised).__name__}: {str(raised)[:300]}"
        if problem:
            found.append(f"{path.name}, {name}: {problem}")
    assert not found, "\n".join(found)
    return len(ways)


@pytest.fixture
def copied(run: Path, data: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A run and the data it was trained on, to be spoilt."""
    shutil.copytree(run, tmp_path / "run")
    shutil.copytree(data, tmp_path / "data")
    return tmp_path / "run", tmp_path / "data"


def few(ways: dict[str, Mutation], step: int) -> dict[str, Mutation]:
    """Every `step`-th way, for commands that take long."""
    return dict(list(ways.items())[::step])


def test_every_file_of_a_bundle(ask: Ask, copied: tuple[Path, Path]) -> None:
    run, data = copied
    bundle = load_bundle(run).folder
    command = ("rank", run, "--data", data, "--user", "u000001", "--candidates", ITEMS, "--json")
    for name in ("bundle.json", "manifest.json"):
        attack(ask, command, bundle / name, BROKEN | edits(bundle / name, NUM_EDITS))
    attack(ask, command, run / "bundle" / "latest", BROKEN)
    for name in ("model.safetensors", "items.parquet", "vocab/item_id.parquet", "embeddings/content.npy"):
        attack(ask, command, bundle / name, few(BROKEN, 3))


def test_every_file_of_prepared_data(ask: Ask, copied: tuple[Path, Path]) -> None:
    run, data = copied
    command = ("rank", run, "--data", data, "--user", "u000001", "--candidates", ITEMS, "--json")
    attack(ask, command, data / "manifest.json", BROKEN | edits(data / "manifest.json", NUM_EDITS))
    timelines = next((data / "timelines").rglob("*.parquet"))
    for path in (data / "items.parquet", data / "users.parquet", timelines):
        attack(ask, command, path, few(BROKEN, 3))


def test_what_a_run_says_of_itself(ask: Ask, copied: tuple[Path, Path]) -> None:
    run, data = copied
    resume = ("train", data, "--out", run, "--resume")
    for name in ("config.json", "data.json"):
        attack(ask, resume, run / name, few(BROKEN, 2) | edits(run / name, NUM_EDITS), same=False)
    checkpoint = run / "checkpoints" / (run / "checkpoints" / "latest").read_text().strip()
    attack(ask, resume, run / "checkpoints" / "latest", few(BROKEN, 2), same=False)
    attack(ask, resume, checkpoint / "state.json", few(BROKEN, 3) | edits(checkpoint / "state.json", 8), same=False)
    attack(ask, resume, checkpoint / "tensors.safetensors", few(BROKEN, 4), same=False)
    attack(ask, resume, run / "metrics.jsonl", few(BROKEN, 4), same=False)
    evaluate = ("evaluate", run, "--data", data)
    for name in ("metrics.jsonl", "environment.json"):
        attack(ask, evaluate, run / name, few(BROKEN, 6), same=False)


def test_published_models(ask: Ask, copied: tuple[Path, Path], tmp_path: Path) -> None:
    run, models = copied[0], tmp_path / "models"
    publish = ("publish", run, "--to", models)
    assert ask(*publish)[0] == 0
    for path in (models / "current", models / "history"):
        attack(ask, publish, path, few(BROKEN, 5))
    (golden,) = models.glob("*.golden.json")
    attack(ask, publish, golden, few(BROKEN, 6) | edits(golden, 4))


def test_an_index(ask: Ask, grank: Path, tmp_path: Path) -> None:
    run = shutil.copytree(grank, tmp_path / "grank")
    command = ("retrieve", run, "--user", "u000001", "--k", "5", "--json")
    index = run / "index" / (run / "index" / "latest").read_text().strip()
    attack(ask, command, run / "index" / "latest", few(BROKEN, 2))
    for name in ("index.json", "embedded.npy", "ids.parquet"):
        attack(ask, command, index / name, few(BROKEN, 3))


def test_a_request_log(ask: Ask, run: Path, data: Path, tmp_path: Path) -> None:
    bundle, path = load_bundle(run), tmp_path / "log"
    answer = GenRanker.load(run).rank("u000001", json.loads(ITEMS), time=Manifest.load(data).split.last_time + 1)
    log = RequestLog(path)
    for _ in range(4):
        log.note(
            ServedRanking(
                model=bundle.version,
                user=answer.user,
                candidates=tuple(json.loads(ITEMS)),
                time=answer.time,
                history=answer.num_history,
                scores={place.item: place.scores for place in answer.places},
            ),
            bundle.folder,
        )
    log.close()
    attack(ask, ("replay", path, "--data", data, "--run", run, "--json"), path, BROKEN, same=False)
    lines = path.read_text().splitlines()
    (tmp_path / "one").write_text(lines[1])
    replay = ("replay", tmp_path / "one", "--data", data, "--run", run, "--json")
    attack(ask, replay, tmp_path / "one", edits(tmp_path / "one", 2 * NUM_EDITS), same=False)


def test_a_schema(ask: Ask, feed: Path, tmp_path: Path) -> None:
    schema = tmp_path / "schema.toml"
    shutil.copyfile(feed / "schema.toml", schema)
    command = ("prepare", tmp_path / "nowhere", "--schema", schema, "--out", tmp_path / "out")
    extra = ("\nx = 1\n", "\n[[[", "\n[split]\ntest_fraction = nan\n", f"\n[a]\nb = 0x{'f' * 5000}\n", "\na." * 9000)
    texts = [schema.read_text() + more for more in extra]
    texts += ["x = " + "[" * 100_000, "x = " + "9" * 5000, "a." * 2000 + "b = 1", "[columns]\nuser = 3"]
    found = []
    for name, mutation in BROKEN.items():
        with mutated(schema, mutation, seed=name):
            found.append(wrong(ask(*command), None))
    for text in texts:
        schema.write_text(text)
        found.append(wrong(ask(*command), None))
    assert not any(found), [problem for problem in found if problem]


BAD_SETTINGS = [
    "model.width=0", "model.width=-1", "model.width=nan", f"model.width={'9' * 5000}", "model.width=1e300",
    f"model.width={'9' * 30}", "model.width=[[]]", "model.width", "=1", "value.click.x=1", "model.search.x.y=1",
    f"{'a.' * 5000}b=1", f"model.width={'[' * 100_000}", "training.learning_rate=inf", "threads=99999999999999999999",
    "model={}", "recipe=1", "training.epochs=-1", "sequence.max_history=1e9", "value={click=nan}", "seed=-1",
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(BAD_SETTINGS)))
def test_a_setting(number: int, ask: Ask, data: Path, tmp_path: Path) -> None:
    answer = ask("train", data, "--out", tmp_path / "run", "--recipe", "genrank-small", "--set", BAD_SETTINGS[number])
    assert answer[0] == 2, answer
    assert not wrong(answer, None)


LONG, NUL = "a" * 300, "a\0b"


@pytest.mark.parametrize("text", [LONG, NUL, "\udcff", "/".join(["b" * 200] * 40), "."], ids=range(5))
def test_names_that_no_file_can_have(text: str, ask: Ask, run: Path, data: Path, tmp_path: Path) -> None:
    user = ("--user", "u", "--candidates", "i")
    for command in (
        ("rank", text, *user),
        ("rank", run, *user, "--data", tmp_path / text),
        ("rank", tmp_path / text, *user),
        ("evaluate", tmp_path / text),
        ("index", tmp_path / text),
        ("retrieve", tmp_path / text, "--user", "u"),
        ("publish", run, "--to", tmp_path / "x" / text / text),
        ("publish", "--roll-back", "--to", tmp_path / text),
        ("replay", tmp_path / text, "--data", data),
        ("prepare", tmp_path / text, "--schema", tmp_path / text, "--out", tmp_path / "out"),
        ("train", tmp_path / text, "--out", tmp_path / "out"),
        ("train", data, "--out", tmp_path / text, "--set", "model.width=0"),
        ("results", tmp_path / text),
        ("results", tmp_path / text, "--judge"),
        ("study", "overall", tmp_path / text, "--out", tmp_path / text),
    ):
        problem = wrong(ask(*command), None)
        assert not problem, (command[0], problem)


@pytest.mark.parametrize(
    "flags",
    [
        ("--candidates", "[1,2"), ("--candidates", "[" * 100_000), ("--candidates", "[null]"), ("--candidates", "[[]]"),
        ("--candidates", f"[{'9' * 5000}]"), ("--candidates", '["\\ud800"]'), ("--candidates", "i,i"),
        ("--candidates", "i", "--context", "{"), ("--candidates", "i", "--context", '{"device": {}'),
        ("--candidates", "i", "--value", "click=nan"), ("--candidates", "i", "--value", '{"click": "x"}'),
        ("--candidates", "i", "--time", "9" * 30), ("--candidates", "i", "--time=-1"),
        ("--candidates", "i" * 100_000), ("--candidates", "i\0"), ("--candidates", " [ ]"),
    ],
    ids=range(16),
)  # fmt: skip
def test_arguments_of_rank(flags: tuple[str, ...], ask: Ask, run: Path) -> None:
    answer = ask("rank", run, "--user", "u", *flags)
    assert answer[0] == 2, answer
    assert not wrong(answer, None)


def test_a_store_of_events_is_read_or_refused_in_one_line(tmp_path: Path) -> None:
    """What can be read of it is, and the rest is left out: no row is in the way of others."""
    path = tmp_path / "events.sqlite"
    store = SQLiteStore(path)
    store.append([Event(user=f"u{n % 50}", item=f"i{n}", time=n + 1) for n in range(500)])
    store.close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode=DELETE")
    connection.close()
    found = []
    for name, mutation in BROKEN.items():
        with mutated(path, mutation, seed=name):
            try:
                with closing(SQLiteStore(path)) as opened:
                    opened.snapshot()
                    for user in opened.users():
                        opened.events(user)
                    opened.append([Event(user="u1", item="new", time=1)])
            except GenRankError:
                pass
            except Exception as problem:  # noqa: BLE001 - each kind is one to be refused in words
                found.append(f"{name}: {type(problem).__name__}: {problem}")
            for more in tmp_path.glob("events.sqlite-*"):
                more.unlink()
    assert not found, "\n".join(found)
