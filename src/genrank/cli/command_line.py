"""The command line: `genrank COMMAND …`. Exit codes: 0 done, 1 a failure of ours, 2 the user's input.

Progress and logs go to stderr; with --json stdout holds one JSON document and nothing else.
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from genrank import __version__
from genrank.cli import commands
from genrank.errors import LONGEST_SHOWN, ConfigError, GenRankError, InputError, Interrupted, shown

FAULT = "a fault of genrank's own"

# OpenMP threads that spin while idle fight a busy neighbour for the core; threads that sleep at once cost a small model
# half of its speed. So they spin for some microseconds, then sleep. Read when torch is imported, later than this.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ |= {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "1000")}


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        _check_text(options)
    except ConfigError as problem:
        return _fail(problem, 2)
    logging.basicConfig(level=logging.INFO if options.verbose else logging.WARNING, format="%(message)s")
    try:
        options.run(options)
    except InputError as problem:
        return _fail(problem, 2)
    except Interrupted as problem:
        return _fail(problem, 130)
    except GenRankError as problem:
        return _fail(problem, 1)
    except KeyboardInterrupt:
        return _fail(GenRankError("interrupted"), 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader (head, say) has gone
        return 0
    except OSError as problem:
        if problem.filename is None:
            return _fault(problem, options)
        reason = f"{problem.strerror}; make room, give another path, or change whose it is"
        return _fail(InputError(f"{os.fsdecode(problem.filename)[-1000:]}: {reason}"), 2)
    except Exception as problem:  # noqa: BLE001 - told in one line; --traceback shows more
        return _fault(problem, options)
    return 0


def _fail(problem: Exception, code: int) -> int:
    text = "".join(letter if letter.isprintable() else " " for letter in str(problem))
    print(f"genrank: {' '.join(text.split())}", file=sys.stderr)  # noqa: T201
    return code


def _fault(problem: Exception, options: argparse.Namespace) -> int:
    """What should have been refused in words of its own, or should not have happened."""
    if options.traceback:
        raise problem
    reason = f"{type(problem).__name__}: {str(problem)[:LONGEST_SHOWN]}"
    return _fail(GenRankError(f"{FAULT} ({reason}); report it with what genrank --traceback … shows"), 1)


def _check_text(options: argparse.Namespace) -> None:
    """ConfigError for text that no file and no answer can hold."""
    for name, value in vars(options).items():
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str | Path):
                try:
                    whole = "\0" not in os.fsdecode(text).encode().decode()
                except UnicodeError:
                    whole = False
                if not whole:
                    raise ConfigError(f"{name}: expected text in UTF-8 without NUL, found {shown(str(text))}")
                if isinstance(text, Path) and _too_long(text):
                    raise ConfigError(
                        f"{name}: no file's name is longer than 255 bytes, no path than 4,000, found {shown(str(text))}"
                    )


def _too_long(path: Path) -> bool:
    return len(os.fsencode(path)) > 4000 or any(len(os.fsencode(part)) > 255 for part in path.parts)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="genrank", description="Generative ranking for recommender systems.")
    parser.add_argument("--version", action="version", version=f"genrank {__version__}")
    parser.add_argument("-v", "--verbose", action="store_true", help="say more on stderr")
    parser.add_argument("--traceback", action="store_true", help="show where in genrank a fault of its own happened")
    parsers = parser.add_subparsers(required=True, metavar="COMMAND")

    doctor = parsers.add_parser("doctor", help="versions, device, threads, what is slow and how to mend it")
    doctor.add_argument("--json", action="store_true")
    doctor.set_defaults(run=commands.doctor)

    demo = parsers.add_parser("demo", help="the whole way on a simulated feed, in minutes on two CPU cores")
    demo.add_argument("--out", type=Path, default=Path("demo"), help="folder for all that it makes (default: demo)")
    demo.add_argument("--seed", type=int, default=0)
    demo.set_defaults(run=commands.demo)

    simulate = parsers.add_parser("simulate", help="an exposure log with known click probabilities")
    simulate.add_argument("out", type=Path)
    simulate.add_argument("--users", type=int, help="number of users")
    simulate.add_argument("--days", type=int, help="number of days")
    simulate.add_argument("--seed", type=int, default=0)
    _add_set(simulate, "a setting of the world, as in num_topics=40")
    simulate.set_defaults(run=commands.simulate)

    prepare = parsers.add_parser("prepare", help="from exposure logs to timelines")
    prepare.add_argument("logs", nargs="+", type=Path, metavar="LOGS", help="Parquet, CSV or TSV files, or a folder")
    prepare.add_argument("--schema", type=Path, help="what the columns mean, in TOML")
    prepare.add_argument(
        "--source", help="a publisher's own layout instead: movielens, mind, kuairand, taobao, sequences"
    )
    prepare.add_argument("--out", type=Path, required=True)
    prepare.add_argument("--memory-limit", help="of the engine, as in 4GB (default: half of the memory)")
    prepare.add_argument("--threads", type=int)
    _add_set(prepare, "a setting of the schema, as in split.test_fraction=0.2")
    prepare.set_defaults(run=commands.prepare)

    schema = parsers.add_parser("schema", help="look at a log, and propose the schema that genrank prepare needs")
    schema.add_argument("logs", nargs="+", type=Path, metavar="LOG", help="as for prepare; only the beginning is read")
    schema.add_argument("--json", action="store_true", help="the proposed settings as JSON, without the reasons")
    schema.set_defaults(run=commands.schema)

    recipes = parsers.add_parser("recipes", help="the named runs that can be trained, and their settings")
    recipes.add_argument("--show", metavar="NAME", help="all settings of this recipe, as --set takes them")
    recipes.add_argument("--json", action="store_true")
    recipes.set_defaults(run=commands.recipes)

    train = parsers.add_parser("train", help="train a recipe on prepared data")
    train.add_argument("data", type=Path)
    train.add_argument("--recipe", default="genrank")
    train.add_argument("--out", type=Path, required=True)
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--resume", action="store_true", help="go on from the last checkpoint in OUT")
    _add_set(train, "a setting of the recipe, as in model.width=128")
    train.set_defaults(run=commands.train)

    _add_uses_of_a_run(parsers)
    return parser


def _add_uses_of_a_run(parsers: Any) -> None:
    evaluate = parsers.add_parser("evaluate", help="metrics per task and slice, and report.html")
    evaluate.add_argument("run_folder", type=Path, metavar="RUN")
    evaluate.add_argument("--data", type=Path, help="prepared data (default: what the run was trained on)")
    _add_device(evaluate, default=None, otherwise="the run's own setting")
    evaluate.add_argument("--part", choices=("valid", "test"), default="test")
    evaluate.add_argument("--trees", action="store_true", help="print gradient-boosted trees beside the model")
    evaluate.add_argument("--json", action="store_true")
    evaluate.set_defaults(run=commands.evaluate)

    rank = parsers.add_parser("rank", help="score candidates for a user")
    rank.add_argument("run_folder", type=Path, metavar="RUN")
    rank.add_argument("--user", required=True)
    rank.add_argument(
        "--candidates", required=True, metavar="I,I,I", help="""or a JSON list: '["a,b", " c"]' names any id as it is"""
    )
    rank.add_argument("--data", type=Path, help="prepared data with the histories (default: the run's own)")
    _add_device(rank)
    rank.add_argument("--time", type=int, help="seconds since the epoch (default: just after the log's end)")
    rank.add_argument(
        "--context",
        default="",
        metavar="NAME=VALUE,…",
        help="features of the exposure, as in device=phone, or a JSON object",
    )
    rank.add_argument("--value", default="", metavar="TASK=WEIGHT,…", help="the order's formula, as in click=1,like=5")
    rank.add_argument("--json", action="store_true")
    rank.set_defaults(run=commands.rank)

    score = parsers.add_parser("score", help="score a file of candidates, one row each, as serving would")
    score.add_argument("run_folder", type=Path, metavar="RUN")
    score.add_argument(
        "candidates",
        type=Path,
        metavar="CANDIDATES",
        help="Parquet, CSV or TSV with columns user, item and, where there are, time and features of the exposure",
    )
    score.add_argument(
        "--out", type=Path, required=True, metavar="SCORES", help="file to write: .parquet, .csv or .tsv"
    )
    score.add_argument("--data", type=Path, help="prepared data with the histories (default: the run's own)")
    _add_device(score)
    score.add_argument("--value", default="", metavar="TASK=WEIGHT,…", help="the value's formula, as in click=1,like=5")
    score.add_argument("--json", action="store_true", help="print what was scored as JSON")
    score.set_defaults(run=commands.score)

    _add_retrieval(parsers)
    _add_serving(parsers)
    _add_looks_at_what_was_served(parsers)
    _add_measuring(parsers)


def _add_retrieval(parsers: Any) -> None:
    index = parsers.add_parser("index", help="embed every item, so that a retriever's run can search them")
    index.add_argument("run_folder", type=Path, metavar="RUN")
    index.add_argument("--data", type=Path, help="prepared data with the items (default: the run's own)")
    index.set_defaults(run=commands.index)

    retrieve = parsers.add_parser("retrieve", help="the best of the whole catalogue for a user")
    retrieve.add_argument("run_folder", type=Path, metavar="RUN")
    retrieve.add_argument("--user", required=True)
    retrieve.add_argument("--k", type=int, default=500, help="how many (default: 500)")
    retrieve.add_argument("--data", type=Path, help="prepared data with the histories (default: the run's own)")
    retrieve.add_argument("--time", type=int, help="seconds since the epoch (default: just after the log's end)")
    retrieve.add_argument(
        "--exclude", default="", metavar="I,I,I", help="items that may not be retrieved, or a JSON list"
    )
    retrieve.add_argument(
        "--without",
        action="append",
        default=[],
        metavar="NAME=A,B",
        help="values of an item feature to leave out, A,B or a JSON list",
    )
    retrieve.add_argument(
        "--precision", choices=("float32", "bfloat16", "int8"), default="int8", help="of the first look (default: int8)"
    )
    retrieve.add_argument("--json", action="store_true")
    retrieve.set_defaults(run=commands.retrieve)


def _add_serving(parsers: Any) -> None:
    publish = parsers.add_parser("publish", help="make a run's model the one that services rank with")
    publish.add_argument("run_folder", type=Path, metavar="RUN", nargs="?")
    publish.add_argument("--to", type=Path, required=True, metavar="MODELS", help="folder of published models")
    publish.add_argument("--roll-back", action="store_true", help="instead: back to the version before the current one")
    publish.set_defaults(run=commands.publish)

    serve = parsers.add_parser("serve", help="rank over HTTP, from cached histories")
    serve.add_argument("run_folder", type=Path, metavar="RUN", help="a run, or a folder of published models")
    serve.add_argument(
        "--retriever",
        type=Path,
        metavar="RUN",
        help="a retriever's run with an index: adds /v1/retrieve, /v1/recommend",
    )
    serve.add_argument("--history", type=Path, help="prepared folder with the users' past (default: the run's own)")
    serve.add_argument(
        "--until", type=int, help="seconds since the epoch: leave out the folder's exposures from then on"
    )
    serve.add_argument(
        "--store", help="file for live events, or redis://host:port/db (default: DATA.events.sqlite beside the folder)"
    )
    _add_device(serve)
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    serve.add_argument("--port", type=int, default=8080)
    serve.add_argument("--token-file", type=Path, metavar="FILE", help="file with the bearer token of callers")
    serve.add_argument(
        "--token",
        default="",
        help="bearer token of callers; shows in the list of processes (default: $GENRANK_TOKEN, or none)",
    )
    serve.add_argument(
        "--trust-proxy",
        nargs="?",
        default="",
        const="127.0.0.1",
        metavar="ADDRESSES",
        help="believe X-Forwarded-For and -Proto of these proxies, as in 10.0.0.0/8 (without a value: 127.0.0.1)",
    )
    serve.add_argument(
        "--log-requests", type=Path, metavar="FILE", help="append every ranking to FILE, for genrank replay"
    )
    _add_set(serve, "a setting of the service, as in deadline=0.2, cache_bytes=1000000000, precision=bf16")
    serve.set_defaults(run=commands.serve)


def _add_looks_at_what_was_served(parsers: Any) -> None:
    store = parsers.add_parser("store", help="look at a store of live events and items, repair it, delete from it")
    store.add_argument("store", metavar="STORE", help="SQLite file or redis:// address, as for genrank serve --store")
    store.add_argument("action", choices=("list", "show", "check", "repair", "delete"))
    store.add_argument("--user", action="append", help="whose events to show or delete; may be given again")
    store.add_argument("--event", action="append", metavar="KEY", help="only this event of the user, as show names it")
    store.add_argument("--item", action="append", help="item to show or delete; may be given again")
    store.add_argument("--model", type=Path, metavar="RUN", help="whose schema must be able to read what is stored")
    store.add_argument("--limit", type=int, default=20, help="users and items to list (default: 20)")
    store.add_argument("--json", action="store_true")
    store.set_defaults(run=commands.store)

    replay = parsers.add_parser("replay", help="compute served rankings again offline, and compare")
    replay.add_argument("log", type=Path, metavar="FILE", help="written by genrank serve --log-requests")
    replay.add_argument("--data", type=Path, required=True, help="prepared folder with the histories")
    replay.add_argument("--run", type=Path, dest="run_folder", help="run or published models (default: as logged)")
    replay.add_argument("--limit", type=int, help="first rankings of the file (default: all)")
    replay.add_argument("--json", action="store_true")
    replay.set_defaults(run=commands.replay)


def _add_measuring(parsers: Any) -> None:
    study = parsers.add_parser("study", help="the paper's tables on prepared data, with seeds and intervals")
    study.add_argument("name", metavar="NAME", help="table1, mechanisms, modules, features, biases, cold-start, …")
    study.add_argument("data", type=Path)
    study.add_argument("--out", type=Path, required=True, help="folder for cells and pages; the same one goes on")
    study.add_argument("--seeds", type=int, default=3, help="how many (default: 3)")
    study.add_argument("--minutes", type=float, default=0.0, help="budget; what is missing then can be added later")
    study.add_argument("--size", default="small", help="of the recipes: small (the default), full, paper")
    study.add_argument("--jobs", type=int, default=1, help="cells computed at a time, each in a process of its own")
    study.add_argument("--only", action="append", default=[], metavar="A;B", help="these variants, beside the baseline")
    study.add_argument(
        "--grid",
        action="append",
        metavar="PATH=A,B,C",
        help="what to tune, or none (default: learning rate, sparse learning rate, batch; grows at its edges)",
    )
    study.add_argument("--trials", type=int, default=15, help="of tuning, at most, for each ranker (default: 15)")
    _add_set(study, "a setting of every recipe, as in training.epochs=1")
    study.add_argument("--json", action="store_true")
    study.set_defaults(run=commands.study)

    results = parsers.add_parser("results", help="Markdown of all studies in a folder and those below it")
    results.add_argument("folder", type=Path)
    results.add_argument(
        "--judge", action="store_true", help="first judge every study again from its cells, and write its JSON"
    )
    results.add_argument(
        "--pack", action="store_true", help="put each data set's cells into one compressed file, and print no page"
    )
    results.add_argument(
        "--pages",
        action="store_true",
        help="write FOLDER.md with the verdicts and FOLDER/NAME.md of each data set, instead of printing one page",
    )
    results.set_defaults(run=commands.results)

    bench = parsers.add_parser("bench", help="how fast it is here")
    bench.add_argument(
        "name",
        metavar="NAME",
        help="attention, training, data, optimizer, scoring, serve, decomposed, search, retrieve",
    )
    bench.add_argument("--size", default="small", help="tiny, small (width 256, the default), paper (768)")
    bench.add_argument("--minutes", type=float, help="about how long to measure (default: by the bench, 1 to 6)")
    bench.add_argument("--seed", type=int, default=0)
    bench.add_argument("--run", type=Path, dest="run_folder", help="serve: the run to serve (default: one of its own)")
    bench.add_argument("--json", action="store_true")
    bench.set_defaults(run=commands.bench)


def _add_device(
    parser: argparse.ArgumentParser, *, default: str | None = "auto", otherwise: str = "auto, a GPU where there is one"
) -> None:
    parser.add_argument(
        "--device", default=default, help=f"where the model computes: cpu, cuda, cuda:1 … (default: {otherwise})"
    )


def _add_set(parser: argparse.ArgumentParser, help_text: str) -> None:
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="PATH=VALUE", help=help_text)


if __name__ == "__main__":
    sys.exit(main())
