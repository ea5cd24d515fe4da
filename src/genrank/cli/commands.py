"""What the commands of the command line do, each with the options that `command_line.py` has read.

A command imports what it needs when it runs, so that the others stay fast.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from genrank.documents import parse_json
from genrank.errors import LONGEST_SHOWN, ConfigError, shown
from genrank.finite_json import json_text


def _console() -> Any:
    from rich.console import Console

    return Console(stderr=True)


def doctor(options: argparse.Namespace) -> None:
    """`genrank doctor`."""
    from rich.console import Console

    from genrank.cli.doctor import examine, findings

    if options.json:
        sys.stdout.write(json_text(findings()))
    else:
        Console().print(examine())


def demo(options: argparse.Namespace) -> None:
    """`genrank demo`."""
    from genrank.cli.demo import demo

    demo(options.out, _console(), seed=options.seed)


def simulate(options: argparse.Namespace) -> None:
    """`genrank simulate`."""
    from genrank.cli.demo import simulate_with_progress

    given = {"num_users": options.users, "num_days": options.days, "seed": options.seed}
    settings = [f"{name}={value}" for name, value in given.items() if value is not None]
    simulate_with_progress(options.out, [*settings, *options.settings], _console())


def prepare(options: argparse.Namespace) -> None:
    """`genrank prepare`."""
    from genrank.cli.demo import prepare_with_progress

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


def schema(options: argparse.Namespace) -> None:
    """`genrank schema`."""
    from genrank.documents import parse_toml
    from genrank.preparation.proposing import propose_schema

    found = propose_schema(options.logs)
    if options.json:
        sys.stdout.write(json_text({"schema": parse_toml(found.text), "missing": list(found.missing)}))
    else:
        sys.stdout.write(found.text)
    if found.missing:
        names = ", ".join(found.missing)
        _console().print(
            f"no column found for: {names}; fill in these lines of [columns]", highlight=False, markup=False
        )


def recipes(options: argparse.Namespace) -> None:
    """`genrank recipes`."""
    from rich.console import Console

    from genrank.cli.recipe_list import described, recipes_table, setting_lines, settings_of

    if options.show is None:
        if options.json:
            sys.stdout.write(json_text(described()))
        else:
            Console().print(recipes_table())
    elif options.json:
        sys.stdout.write(json_text(settings_of(options.show)))
    else:
        sys.stdout.write("".join(f"{line}\n" for line in setting_lines(options.show)))


def train(options: argparse.Namespace) -> None:
    """`genrank train`."""
    from dataclasses import replace

    from genrank.config import override
    from genrank.recipes import recipe, siblings
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
    bundle = train(options.out, console, resume=resume, siblings=siblings)
    console.print(f"run [bold]{options.out}[/]: model bundle {bundle.name}. Next: genrank evaluate {options.out}")


def evaluate(options: argparse.Namespace) -> None:
    """`genrank evaluate`."""
    from rich.console import Console

    from genrank.evaluation.evaluation_tables import as_tables
    from genrank.runs.evaluate_ranking import evaluate_run
    from genrank.runs.train import load_run

    if load_run(options.run_folder)[0].model.retrieves:
        _evaluate_retrieval(options)
        return
    judged = evaluate_run(
        options.run_folder, data=options.data, part=options.part, trees=options.trees, device=options.device
    )
    if options.json:
        sys.stdout.write(json_text(judged.to_json()))
    else:
        Console().print(as_tables(judged))
    _console().print(f"report: {options.run_folder / 'report.html'}")


def _evaluate_retrieval(options: argparse.Namespace) -> None:
    from rich.console import Console

    from genrank.evaluation.retrieval_metrics import as_tables
    from genrank.runs.evaluate_retrieval import evaluate_retrieval

    if options.trees:
        raise ConfigError("--trees stand beside a ranker; a retriever has none")
    judged = evaluate_retrieval(options.run_folder, data=options.data, part=options.part, device=options.device)
    if options.json:
        sys.stdout.write(json_text(judged))
    else:
        Console().print(as_tables(judged))


def rank(options: argparse.Namespace) -> None:
    """`genrank rank`."""
    from dataclasses import asdict

    from rich.console import Console

    from genrank.cli.demo import ranking_table
    from genrank.inference.gen_ranker import GenRanker

    ranker = GenRanker.load(options.run_folder, data=options.data, device=options.device)
    weights = {name: _number(name, str(text)) for name, text in _pairs("--value", options.value).items()}
    ranking = ranker.rank(
        options.user,
        _ids("--candidates", options.candidates),
        time=options.time,
        context=_pairs("--context", options.context),
        value=weights or None,
    )
    if options.json:
        sys.stdout.write(json_text(asdict(ranking)))
    else:
        Console().print(ranking_table(ranking))


def score(options: argparse.Namespace) -> None:
    """`genrank score`."""
    from dataclasses import asdict

    from genrank.inference.batch_scoring import ranker_of_many, score_file

    weights = {name: _number(name, str(text)) for name, text in _pairs("--value", options.value).items()}
    ranker = ranker_of_many(options.run_folder, data=options.data, device=options.device)
    console = _console()
    with console.status("scoring"):
        found = score_file(ranker, options.candidates, options.out, value=weights or None)
    if options.json:
        sys.stdout.write(json_text(asdict(found) | {"out": str(options.out)}))
    lines = [
        f"{found.rows:,} candidates in {found.requests:,} requests scored by model {found.model_version}, "
        f"in {options.out}"
    ]
    if found.unknown_users or found.unknown_items:
        lines.append(
            f"scored as unknown: {found.unknown_users:,} rows by their user, {found.unknown_items:,} by their item"
        )
    if found.missing_context:
        lines.append(f"no columns for these features, so unknown to the model: {', '.join(found.missing_context)}")
    if found.unused:
        lines.append(f"columns that are not used: {', '.join(found.unused)}")
    console.print(*lines, sep="\n", highlight=False, markup=False, soft_wrap=True)


def serve(options: argparse.Namespace) -> None:
    """`genrank serve`."""
    from genrank.artifacts.bundle import load_bundle
    from genrank.config import build, override
    from genrank.inference.published import check_golden, current, is_published
    from genrank.inference.request_log import RequestLog
    from genrank.inference.stores import open_store
    from genrank.nn.devices import device_named, precision_on
    from genrank.server.core import RankingService
    from genrank.server.retrieval_service import RetrievalStage
    from genrank.server.run import Listening, bind, read_token, require_serve, run
    from genrank.server.service_options import ServiceOptions
    from genrank.training.allocator import share_freed_memory

    require_serve()
    share_freed_memory()
    token = read_token(options.token, options.token_file, os.environ.get("GENRANK_TOKEN", ""))
    where = {"host": options.host, "port": options.port, "token": token, "trust_proxy": options.trust_proxy}
    listening = build(Listening, where, where="serve")
    settings = override(ServiceOptions(device=options.device), options.settings)
    device = device_named(settings.device)
    published = is_published(options.run_folder)
    bundle = load_bundle(options.run_folder / current(options.run_folder) if published else options.run_folder)
    if published:
        check_golden(bundle, device=device, precision=precision_on(device, settings.precision))
    data = options.history or Path(bundle.config.data)
    request_log = None if options.log_requests is None else RequestLog(options.log_requests)
    with bind(listening) as taken:
        store = open_store(options.store or str(data.with_name(data.name + ".events.sqlite")))
        service = RankingService(
            bundle, options.history, store=store, options=settings, until=options.until, request_log=request_log
        )
        stage = None
        if options.retriever is not None:
            stage = RetrievalStage(options.retriever, contexts=service.contexts, options=settings, clock=service.clock)
            service.readers.append(stage.catch_up)
            service.vital.append(stage.failure)
        run(service, listening, taken, models=options.run_folder if published else None, stage=stage)


def index(options: argparse.Namespace) -> None:
    """`genrank index`."""
    from genrank.inference.gen_retriever import build_index

    folder = build_index(options.run_folder, data=options.data)
    _console().print(f"index {folder}. Next: genrank retrieve {options.run_folder} --user U")


def retrieve(options: argparse.Namespace) -> None:
    """`genrank retrieve`."""
    from dataclasses import asdict

    from rich.console import Console

    from genrank.cli.demo import found_table
    from genrank.inference.gen_retriever import GenRetriever

    without = {}
    for given in options.without:
        name, separator, values = given.partition("=")
        if not separator:
            raise ConfigError(f"--without {given[:LONGEST_SHOWN]}: expected NAME=VALUE,VALUE")
        without[name] = _ids("--without", values)
    retriever = GenRetriever.load(options.run_folder, data=options.data, precision=options.precision)
    found = retriever.retrieve(
        options.user,
        k=options.k,
        time=options.time,
        without=without,
        exclude=_ids("--exclude", options.exclude),
    )
    if options.json:
        sys.stdout.write(json_text(asdict(found)))
    else:
        Console().print(found_table(found))


def publish(options: argparse.Namespace) -> None:
    """`genrank publish`."""
    from genrank.inference.published import publish, roll_back

    if options.roll_back == (options.run_folder is not None):
        raise ConfigError("genrank publish: give either a RUN or --roll-back")
    version = roll_back(options.to) if options.roll_back else publish(options.run_folder, options.to)
    sys.stdout.write(f"{version} is current in {options.to}\n")


def replay(options: argparse.Namespace) -> None:
    """`genrank replay`."""
    from rich.console import Console

    from genrank.cli.demo import replay_table
    from genrank.inference.replay import replay

    if options.limit is not None and options.limit < 1:
        raise ConfigError(f"--limit {options.limit}: it must be at least 1")
    found = replay(options.log, options.data, run=options.run_folder, limit=options.limit)
    if options.json:
        sys.stdout.write(json_text(found.to_json()))
    else:
        Console().print(replay_table(found))


def store(options: argparse.Namespace) -> None:
    """`genrank store`."""
    from genrank.artifacts.bundle import load_bundle
    from genrank.inference.stored import SchemaCheck, open_existing, shown_events, shown_items, summary

    users, items, action = options.user or [], options.item or [], options.action
    if action in ("show", "delete") and not users and not items:
        raise ConfigError(f"genrank store {action}: name what by --user or --item")
    if options.event and len(users) != 1:
        raise ConfigError("genrank store: --event needs the one --user whose event it is")
    if action == "repair" and options.model is None:
        raise ConfigError("genrank store repair: give the --model whose schema decides what can be read")
    schema = SchemaCheck(None if options.model is None else load_bundle(options.model))
    with closing(open_existing(options.store, writing=action in ("repair", "delete"))) as stored:
        if action == "list":
            found: Any = summary(stored, limit=options.limit)
        elif action == "show":
            found = {user: shown_events(stored, user) for user in users} | {"items": shown_items(stored, items)}
        elif action == "check":
            reasons = schema.left_out(stored).reasons
            found = {"unreadable": [{**name._asdict(), "reason": reason} for name, reason in reasons.items()]}
        elif action == "repair":
            found = dict(zip(("mended", "deleted"), schema.repair(stored), strict=True))
        elif options.event:
            found = {"deleted": stored.delete(items=items, events=[(users[0], key) for key in options.event])}
        else:
            found = {"deleted": stored.delete(items=items) + sum(stored.delete(user=user) for user in users)}
    sys.stdout.write(json_text(found) if options.json else "\n".join(_store_lines(found)) + "\n")


def _store_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """What `genrank store` has found, for people: a line for every part of a list, else one for each name."""
    for name, value in found.items():
        if isinstance(value, list):
            yield from (json_text(part, indent=None).strip() for part in value)
            yield f"{name}: {len(value)}"
        else:
            yield f"{name}: {json_text(value, indent=None).strip() if isinstance(value, dict) else value}"


def study(options: argparse.Namespace) -> None:
    """`genrank study`."""
    from rich.console import Console

    from genrank.config import build
    from genrank.studies.pages import summary, write_pages
    from genrank.studies.run_study import StudyOptions, run_study
    from genrank.studies.study_tables import failures, standing

    given = {
        name: getattr(options, name) for name in ("name", "seeds", "minutes", "size", "jobs", "trials", "settings")
    }
    given["only"] = [name.strip() for name in ";".join(options.only).split(";") if name.strip()]
    if options.grid:
        given["grid"] = options.grid
    console = _console()
    result = run_study(options.data, options.out, build(StudyOptions, given, where="study"), console)
    pages = write_pages(options.out, result)
    if options.json:
        sys.stdout.write(json_text(result))
    else:
        Console().print(*summary(result), *standing(result), *failures(result), sep="\n", highlight=False, markup=False)
    console.print("pages: " + ", ".join(str(page) for page in pages), highlight=False, soft_wrap=True)


def results(options: argparse.Namespace) -> None:
    """`genrank results`."""
    from genrank.studies.again import judge_folder_again
    from genrank.studies.cell_archive import pack_studies
    from genrank.studies.overview import overview, write_overview

    if options.judge:
        judge_folder_again(options.folder)
    if options.pack:
        for packed in pack_studies(options.folder):
            sys.stdout.write(f"{packed.archive}: {packed.num_cells} cells, {packed.num_added} of them added\n")
    if options.pages:
        sys.stdout.writelines(f"{path}\n" for path in write_overview(options.folder))
    elif not options.pack:
        sys.stdout.write(overview(options.folder))


def bench(options: argparse.Namespace) -> None:
    """`genrank bench`."""
    from rich.console import Console

    from genrank.bench.bench_options import BenchOptions
    from genrank.bench.bench_tables import as_tables
    from genrank.bench.benches import run_bench
    from genrank.config import build

    given = {name: getattr(options, name) for name in ("name", "size", "minutes", "seed")}
    given["run"] = options.run_folder
    with _console().status("warming up") as status:
        result = run_bench(build(BenchOptions, given, where="bench"), status.update)
    if options.json:
        sys.stdout.write(json_text(result))
    else:
        Console().print(as_tables(result))


def _ids(flag: str, text: str) -> list[str]:
    """Ids between commas, or any ids as they are in a JSON list of text. ConfigError for a list that is neither."""
    if not text.lstrip().startswith("["):
        return [item.strip() for item in text.split(",")] if text.strip() else []
    try:
        found = parse_json(text)
    except ValueError as problem:
        found = problem
    if isinstance(found, list) and all(isinstance(item, str | int) and not isinstance(item, bool) for item in found):
        return [str(item) for item in found]
    reason = found if isinstance(found, ValueError) else "expected a list of text"
    raise ConfigError(
        f"{flag} {text[:LONGEST_SHOWN]}: is no JSON list of ids ({reason}); an id that begins with a bracket is "
        """written in one, as in '["[a"]'"""
    )


def _pairs(flag: str, text: str) -> dict[str, Any]:
    """Values by name: text behind NAME=, or of any type in a JSON object."""
    if text.lstrip().startswith("{"):
        try:
            given = parse_json(text)
        except ValueError as problem:
            raise ConfigError(f"{flag} {text[:LONGEST_SHOWN]}: is no JSON object ({problem})") from None
        return dict(given)
    pairs: dict[str, Any] = {}
    for part in filter(None, text.split(",")):
        name, separator, value = part.partition("=")
        if not separator:
            raise ConfigError(f"{flag} {part[:LONGEST_SHOWN]}: expected NAME=VALUE, separated by commas")
        pairs[name.strip()] = value.strip()
    return pairs


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"--value {shown(name)}={shown(text)}: the weight must be a number") from None
