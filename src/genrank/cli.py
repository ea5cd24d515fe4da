"""The command line: `genrank COMMAND …`. Exit codes: 0 done, 1 a failure of ours, 2 the user's input.

Progress and logs go to stderr; with --json stdout holds one JSON document and nothing else.
"""

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from genrank import __version__
from genrank.errors import ConfigError, GenRankError, InputError, Interrupted

# OpenMP threads that spin while idle fight a busy neighbour for the core; threads that sleep at once cost a small model
# half of its speed. So they spin for some microseconds, then sleep. Read when torch is imported, later than this.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ |= {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "1000")}


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    options = _parser().parse_args(arguments)
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
    return 0


def _fail(problem: Exception, code: int) -> int:
    print(f"genrank: {' '.join(str(problem).split())}", file=sys.stderr)  # noqa: T201
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="genrank", description="Generative ranking for recommender systems.")
    parser.add_argument("--version", action="version", version=f"genrank {__version__}")
    parser.add_argument("-v", "--verbose", action="store_true", help="say more on stderr")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    doctor = commands.add_parser("doctor", help="versions, device, threads, what is slow and how to mend it")
    doctor.set_defaults(run=_doctor)

    demo = commands.add_parser("demo", help="the whole way on a simulated feed, in minutes on two CPU cores")
    demo.add_argument("--out", type=Path, default=Path("demo"), help="folder for all that it makes (default: demo)")
    demo.add_argument("--seed", type=int, default=0)
    demo.set_defaults(run=_demo)

    simulate = commands.add_parser("simulate", help="an exposure log with known click probabilities")
    simulate.add_argument("out", type=Path)
    simulate.add_argument("--users", type=int, help="number of users")
    simulate.add_argument("--days", type=int, help="number of days")
    simulate.add_argument("--seed", type=int, default=0)
    _add_set(simulate, "a setting of the world, as in num_topics=40")
    simulate.set_defaults(run=_simulate)

    prepare = commands.add_parser("prepare", help="from exposure logs to timelines")
    prepare.add_argument("logs", nargs="+", type=Path, metavar="LOGS", help="Parquet, CSV or TSV files, or a folder")
    prepare.add_argument("--schema", type=Path, help="what the columns mean, in TOML")
    prepare.add_argument(
        "--source", help="a publisher's own layout instead: movielens, mind, kuairand, taobao, sequences"
    )
    prepare.add_argument("--out", type=Path, required=True)
    prepare.add_argument("--memory-limit", help="of the engine, as in 4GB (default: half of the memory)")
    prepare.add_argument("--threads", type=int)
    _add_set(prepare, "a setting of the schema, as in split.test_fraction=0.2")
    prepare.set_defaults(run=_prepare)

    train = commands.add_parser("train", help="train a recipe on prepared data")
    train.add_argument("data", type=Path)
    train.add_argument("--recipe", default="genrank")
    train.add_argument("--out", type=Path, required=True)
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--resume", action="store_true", help="go on from the last checkpoint in OUT")
    _add_set(train, "a setting of the recipe, as in model.width=128")
    train.set_defaults(run=_train)

    _add_uses_of_a_run(commands)
    return parser


def _add_uses_of_a_run(commands: Any) -> None:
    evaluate = commands.add_parser("evaluate", help="metrics per task and slice, and report.html")
    evaluate.add_argument("run_folder", type=Path, metavar="RUN")
    evaluate.add_argument("--data", type=Path, help="prepared data (default: what the run was trained on)")
    evaluate.add_argument("--part", choices=("valid", "test"), default="test")
    evaluate.add_argument("--trees", action="store_true", help="print gradient-boosted trees beside the model")
    evaluate.add_argument("--json", action="store_true")
    evaluate.set_defaults(run=_evaluate)

    rank = commands.add_parser("rank", help="score candidates for a user")
    rank.add_argument("run_folder", type=Path, metavar="RUN")
    rank.add_argument("--user", required=True)
    rank.add_argument("--candidates", required=True, metavar="I,I,I")
    rank.add_argument("--data", type=Path, help="prepared data with the histories (default: the run's own)")
    rank.add_argument("--time", type=int, help="seconds since the epoch (default: just after the log's end)")
    rank.add_argument(
        "--context", default="", metavar="NAME=VALUE,…", help="features of the exposure, as in device=phone"
    )
    rank.add_argument("--value", default="", metavar="TASK=WEIGHT,…", help="the order's formula, as in click=1,like=5")
    rank.add_argument("--json", action="store_true")
    rank.set_defaults(run=_rank)

    _add_retrieval(commands)
    _add_serving(commands)
    _add_measuring(commands)


def _add_retrieval(commands: Any) -> None:
    index = commands.add_parser("index", help="embed every item, so that a retriever's run can search them")
    index.add_argument("run_folder", type=Path, metavar="RUN")
    index.add_argument("--data", type=Path, help="prepared data with the items (default: the run's own)")
    index.set_defaults(run=_index)

    retrieve = commands.add_parser("retrieve", help="the best of the whole catalogue for a user")
    retrieve.add_argument("run_folder", type=Path, metavar="RUN")
    retrieve.add_argument("--user", required=True)
    retrieve.add_argument("--k", type=int, default=500, help="how many (default: 500)")
    retrieve.add_argument("--data", type=Path, help="prepared data with the histories (default: the run's own)")
    retrieve.add_argument("--time", type=int, help="seconds since the epoch (default: just after the log's end)")
    retrieve.add_argument("--exclude", default="", metavar="I,I,I", help="items that may not be retrieved")
    retrieve.add_argument(
        "--without", action="append", default=[], metavar="NAME=A,B", help="values of an item feature to leave out"
    )
    retrieve.add_argument(
        "--precision", choices=("float32", "bfloat16", "int8"), default="int8", help="of the first look (default: int8)"
    )
    retrieve.add_argument("--json", action="store_true")
    retrieve.set_defaults(run=_retrieve)


def _add_serving(commands: Any) -> None:
    publish = commands.add_parser("publish", help="make a run's model the one that services rank with")
    publish.add_argument("run_folder", type=Path, metavar="RUN", nargs="?")
    publish.add_argument("--to", type=Path, required=True, metavar="MODELS", help="folder of published models")
    publish.add_argument("--roll-back", action="store_true", help="instead: back to the version before the current one")
    publish.set_defaults(run=_publish)

    serve = commands.add_parser("serve", help="rank over HTTP, from cached histories")
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
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    serve.add_argument("--port", type=int, default=8080)
    serve.add_argument("--token", default="", help="bearer token of callers (default: $GENRANK_TOKEN, or none)")
    serve.add_argument(
        "--log-requests", type=Path, metavar="FILE", help="append every ranking to FILE, for genrank replay"
    )
    _add_set(serve, "a setting of the service, as in deadline=0.2, cache_bytes=1000000000, precision=bf16")
    serve.set_defaults(run=_serve)

    replay = commands.add_parser("replay", help="compute served rankings again offline, and compare")
    replay.add_argument("log", type=Path, metavar="FILE", help="written by genrank serve --log-requests")
    replay.add_argument("--data", type=Path, required=True, help="prepared folder with the histories")
    replay.add_argument("--run", type=Path, dest="run_folder", help="run or published models (default: as logged)")
    replay.add_argument("--limit", type=int, help="first rankings of the file (default: all)")
    replay.add_argument("--json", action="store_true")
    replay.set_defaults(run=_replay)


def _add_measuring(commands: Any) -> None:
    study = commands.add_parser("study", help="the paper's tables on prepared data, with seeds and intervals")
    study.add_argument("name", metavar="NAME", help="table1, mechanisms, modules, features, biases, cold-start, …")
    study.add_argument("data", type=Path)
    study.add_argument("--out", type=Path, required=True, help="folder for cells and pages; the same one goes on")
    study.add_argument("--seeds", type=int, default=3, help="how many (default: 3)")
    study.add_argument("--minutes", type=float, default=0.0, help="budget; what is missing then can be added later")
    study.add_argument("--size", default="small", help="of the recipes: small (the default), full, paper")
    study.add_argument("--jobs", type=int, default=1, help="cells computed at a time, each in a process of its own")
    study.add_argument("--only", default="", metavar="A;B", help="these variants, beside the baseline")
    study.add_argument(
        "--grid", action="append", metavar="PATH=A,B,C", help="what to tune, or none (default: three learning rates)"
    )
    _add_set(study, "a setting of every recipe, as in training.epochs=1")
    study.add_argument("--json", action="store_true")
    study.set_defaults(run=_study)

    results = commands.add_parser("results", help="one Markdown page of all studies in a folder and those below it")
    results.add_argument("folder", type=Path)
    results.set_defaults(run=_results)

    bench = commands.add_parser("bench", help="how fast it is here")
    bench.add_argument(
        "name", metavar="NAME", help="attention, training, data, optimizer, scoring, serve, decomposed, search"
    )
    bench.add_argument("--size", default="small", help="tiny, small (width 256, the default), paper (768)")
    bench.add_argument("--minutes", type=float, help="about how long to measure (default: by the bench, 1 to 6)")
    bench.add_argument("--seed", type=int, default=0)
    bench.add_argument("--run", type=Path, dest="run_folder", help="serve: the run to serve (default: one of its own)")
    bench.add_argument("--json", action="store_true")
    bench.set_defaults(run=_bench)


def _add_set(parser: argparse.ArgumentParser, help_text: str) -> None:
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="PATH=VALUE", help=help_text)


def _console() -> Any:
    from rich.console import Console

    return Console(stderr=True)


def _doctor(options: argparse.Namespace) -> None:
    del options
    from rich.console import Console

    from genrank.doctor import examine

    Console().print(examine())


def _demo(options: argparse.Namespace) -> None:
    from genrank.demo import demo

    demo(options.out, _console(), seed=options.seed)


def _simulate(options: argparse.Namespace) -> None:
    from genrank.demo import simulate_with_progress

    given = {"num_users": options.users, "num_days": options.days, "seed": options.seed}
    settings = [f"{name}={value}" for name, value in given.items() if value is not None]
    simulate_with_progress(options.out, [*settings, *options.settings], _console())


def _prepare(options: argparse.Namespace) -> None:
    from genrank.demo import prepare_with_progress

    if (options.schema is None) == (options.source is None):
        raise ConfigError(
            "prepare: give either --schema S.toml for your own logs or --source NAME for a public data set"
        )
    prepare_with_progress(
        options.logs,
        out=options.out,
        schema=options.schema,
        source=options.source,
        settings=options.settings,
        limits={"memory_limit": options.memory_limit, "threads": options.threads},
        console=_console(),
    )


def _train(options: argparse.Namespace) -> None:
    from dataclasses import replace

    from genrank.config import override
    from genrank.recipes import recipe
    from genrank.runs.train import start_run, train

    console = _console()
    resume = options.resume and (options.out / "config.json").exists()
    if not resume:
        config = override(replace(recipe(options.recipe), seed=options.seed), options.settings)
        start_run(options.data, config, options.out)
    elif options.settings:
        raise ConfigError(
            "--set can't be combined with --resume: a resumed run keeps its configuration; start a new run"
        )
    bundle = train(options.out, console, resume=resume)
    console.print(f"run [bold]{options.out}[/]: model bundle {bundle.name}. Next: genrank evaluate {options.out}")


def _evaluate(options: argparse.Namespace) -> None:
    from rich.console import Console

    from genrank.evaluation.table import as_tables
    from genrank.retrieval.config import RetrieverConfig
    from genrank.runs.evaluate import evaluate_run
    from genrank.runs.train import load_run

    if isinstance(load_run(options.run_folder)[0].model, RetrieverConfig):
        _evaluate_retrieval(options)
        return
    judged = evaluate_run(options.run_folder, data=options.data, part=options.part, trees=options.trees)
    if options.json:
        sys.stdout.write(json.dumps(judged.to_json()) + "\n")
    else:
        Console().print(as_tables(judged))
    _console().print(f"report: {options.run_folder / 'report.html'}")


def _evaluate_retrieval(options: argparse.Namespace) -> None:
    from rich.console import Console

    from genrank.evaluation.retrieval import as_tables
    from genrank.runs.evaluate_retrieval import evaluate_retrieval

    if options.trees:
        raise ConfigError("--trees stand beside a ranker; a retriever has none")
    judged = evaluate_retrieval(options.run_folder, data=options.data, part=options.part)
    if options.json:
        sys.stdout.write(json.dumps(judged) + "\n")
    else:
        Console().print(as_tables(judged))


def _rank(options: argparse.Namespace) -> None:
    from dataclasses import asdict

    from rich.console import Console

    from genrank.demo import ranking_table
    from genrank.serving.ranker import GenRanker

    ranker = GenRanker.load(options.run_folder, data=options.data)
    weights = {name: _number(name, text) for name, text in _pairs("--value", options.value).items()}
    ranking = ranker.rank(
        options.user,
        [item.strip() for item in options.candidates.split(",")] if options.candidates.strip() else [],
        time=options.time,
        context=_pairs("--context", options.context),
        value=weights or None,
    )
    if options.json:
        sys.stdout.write(json.dumps(asdict(ranking)) + "\n")
    else:
        Console().print(ranking_table(ranking))


def _serve(options: argparse.Namespace) -> None:
    from genrank.config import build, override
    from genrank.service.core import RankingService, ServiceOptions
    from genrank.service.retrieval import RetrievalStage
    from genrank.service.run import Listening, bind, require_serve, run
    from genrank.serving.bundle import load_bundle
    from genrank.serving.request_log import RequestLog
    from genrank.serving.stores import open_store
    from genrank.serving.versions import current, is_published

    require_serve()
    where = {"host": options.host, "port": options.port, "token": options.token or os.environ.get("GENRANK_TOKEN", "")}
    listening = build(Listening, where, where="serve")
    settings = override(ServiceOptions(), options.settings)
    published = is_published(options.run_folder)
    bundle = load_bundle(options.run_folder / current(options.run_folder) if published else options.run_folder)
    data = options.history or Path(bundle.config.data)
    request_log = None if options.log_requests is None else RequestLog(options.log_requests)
    with bind(listening) as taken:
        store = open_store(options.store or str(data.with_name(data.name + ".events.sqlite")))
        service = RankingService(
            bundle, options.history, store=store, options=settings, until=options.until, request_log=request_log
        )
        stage = None
        if options.retriever is not None:
            stage = RetrievalStage(options.retriever, store=store, options=settings, until=options.until)
            service.readers.append(stage.catch_up)
        run(service, listening, taken, models=options.run_folder if published else None, stage=stage)


def _index(options: argparse.Namespace) -> None:
    from genrank.serving.gen_retriever import build_index

    folder = build_index(options.run_folder, data=options.data)
    _console().print(f"index {folder}. Next: genrank retrieve {options.run_folder} --user U")


def _retrieve(options: argparse.Namespace) -> None:
    from dataclasses import asdict

    from rich.console import Console

    from genrank.demo import found_table
    from genrank.serving.gen_retriever import GenRetriever

    without = {}
    for given in options.without:
        name, separator, values = given.partition("=")
        if not separator:
            raise ConfigError(f"--without {given}: expected NAME=VALUE,VALUE")
        without[name] = values.split(",")
    retriever = GenRetriever.load(options.run_folder, data=options.data, precision=options.precision)
    found = retriever.retrieve(
        options.user,
        k=options.k,
        time=options.time,
        without=without,
        exclude=[item for item in options.exclude.split(",") if item],
    )
    if options.json:
        sys.stdout.write(json.dumps(asdict(found)) + "\n")
    else:
        Console().print(found_table(found))


def _publish(options: argparse.Namespace) -> None:
    from genrank.serving.versions import publish, roll_back

    if options.roll_back == (options.run_folder is not None):
        raise ConfigError("genrank publish: give either a RUN or --roll-back")
    version = roll_back(options.to) if options.roll_back else publish(options.run_folder, options.to)
    sys.stdout.write(f"{version} is current in {options.to}\n")


def _replay(options: argparse.Namespace) -> None:
    from rich.console import Console

    from genrank.demo import replay_table
    from genrank.serving.replay import replay

    if options.limit is not None and options.limit < 1:
        raise ConfigError(f"--limit {options.limit}: it must be at least 1")
    found = replay(options.log, options.data, run=options.run_folder, limit=options.limit)
    if options.json:
        sys.stdout.write(json.dumps(found.to_json()) + "\n")
    else:
        Console().print(replay_table(found))


def _study(options: argparse.Namespace) -> None:
    from rich.console import Console

    from genrank.config import build
    from genrank.studies.pages import failures, summary, write_pages
    from genrank.studies.suite import StudyOptions, run_study

    given = {name: getattr(options, name) for name in ("name", "seeds", "minutes", "size", "jobs", "settings")}
    given["only"] = [name.strip() for name in options.only.split(";") if name.strip()]
    if options.grid:
        given["grid"] = options.grid
    console = _console()
    result = run_study(options.data, options.out, build(StudyOptions, given, where="study"), console)
    pages = write_pages(options.out, result)
    if options.json:
        sys.stdout.write(json.dumps(result) + "\n")
    else:
        Console().print(*summary(result), *failures(result), sep="\n", highlight=False, markup=False)
    console.print("pages: " + ", ".join(str(page) for page in pages), highlight=False, soft_wrap=True)


def _results(options: argparse.Namespace) -> None:
    from genrank.studies.overview import overview

    sys.stdout.write(overview(options.folder))


def _bench(options: argparse.Namespace) -> None:
    from rich.console import Console

    from genrank.bench.options import BenchOptions
    from genrank.bench.suite import run_bench
    from genrank.bench.table import as_tables
    from genrank.config import build

    given = {name: getattr(options, name) for name in ("name", "size", "minutes", "seed")}
    given["run"] = options.run_folder
    with _console().status("warming up") as status:
        result = run_bench(build(BenchOptions, given, where="bench"), status.update)
    if options.json:
        sys.stdout.write(json.dumps(result) + "\n")
    else:
        Console().print(as_tables(result))


def _pairs(flag: str, text: str) -> dict[str, str]:
    pairs = {}
    for part in filter(None, text.split(",")):
        name, separator, value = part.partition("=")
        if not separator:
            raise ConfigError(f"{flag} {part}: expected NAME=VALUE, separated by commas")
        pairs[name.strip()] = value.strip()
    return pairs


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"--value {name}={text}: the weight must be a number") from None


if __name__ == "__main__":
    sys.exit(main())
