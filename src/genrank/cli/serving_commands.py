"""Commands around the service: publish a model, serve it, inspect its event store, replay its rankings.

A command imports what it needs when it runs, so that all of them start fast.
"""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import Argument, Option

from genrank.cli.options import Device, Json, argument, option, settings_of
from genrank.errors import ConfigError
from genrank.finite_json import json_text

if TYPE_CHECKING:
    from genrank.artifacts.bundle import Bundle
    from genrank.server.ranking_service import RankingService
    from genrank.server.retrieval_service import RetrievalService
    from genrank.server.service_options import ServiceOptions

LOCALHOST = "127.0.0.1"


def publish(
    to: Annotated[Path, option("folder of published models", metavar="MODELS")],
    run_folder: Annotated[Path | None, argument("RUN", "a run's folder")] = None,
    roll_back: Annotated[
        bool, Option("--roll-back", help="go back to the version before the current one, instead of publishing a RUN")
    ] = False,
) -> None:
    """Publish a run's model: services that follow MODELS change to it."""
    from genrank.inference import published

    if run_folder is not None and not roll_back:
        version = published.publish(run_folder, to)
    elif run_folder is None and roll_back:
        version = published.roll_back(to)
    else:
        raise ConfigError("genrank publish: give either a RUN or --roll-back")
    sys.stdout.write(f"{version} is current in {to}\n")


def serve(
    run_folder: Annotated[Path, argument("RUN", "a run, or a folder of published models")],
    retriever: Annotated[
        Path | None, option("a retriever's run with an index: adds /v1/retrieve, /v1/recommend", metavar="RUN")
    ] = None,
    history: Annotated[Path | None, option("prepared folder with the users' past (default: the run's data)")] = None,
    until: Annotated[
        int | None, option("leave out the folder's exposures from this time on, in seconds since the epoch")
    ] = None,
    store: Annotated[
        str | None,
        option("file for live events, or redis://host:port/db (default: DATA.events.sqlite beside the folder)"),
    ] = None,
    device: Device = "auto",
    host: Annotated[str, option("address to listen on (default: this machine only)")] = LOCALHOST,
    port: Annotated[int, Option()] = 8080,
    token_file: Annotated[Path | None, option("file with the bearer token of callers", metavar="FILE")] = None,
    token: Annotated[
        str, option("bearer token of callers; visible in the list of processes (default: $GENRANK_TOKEN, or none)")
    ] = "",
    trust_proxy: Annotated[
        str,
        option(
            f"trust X-Forwarded-For and -Proto of these proxies, as in 10.0.0.0/8 (without a value: {LOCALHOST})",
            metavar="[ADDRESSES]",
        ),
    ] = "",
    log_requests: Annotated[
        Path | None, option("append every ranking to FILE, for genrank replay", metavar="FILE")
    ] = None,
    settings: Annotated[
        list[str] | None,
        settings_of("a setting of the service, as in deadline=0.2, cache_bytes=1000000000, precision=bf16"),
    ] = None,
) -> None:
    """Serve rankings over HTTP, with cached histories."""
    from genrank.config import build, override
    from genrank.inference.published import is_published
    from genrank.inference.request_log import RequestLog
    from genrank.inference.stores import open_store
    from genrank.server.ranking_service import RankingService
    from genrank.server.run import Listening, bind, read_token, require_serve, run
    from genrank.server.service_options import ServiceOptions
    from genrank.training.allocator import share_freed_memory

    require_serve()
    share_freed_memory()
    token = read_token(token, token_file, os.environ.get("GENRANK_TOKEN", ""))
    where = {"host": host, "port": port, "token": token, "trust_proxy": trust_proxy}
    listening = build(Listening, where, where="serve")
    options = override(ServiceOptions(device=device), settings or [])
    bundle = _bundle_to_serve(run_folder, options)
    data = history or Path(bundle.config.data)
    request_log = None if log_requests is None else RequestLog(log_requests)
    with bind(listening) as taken:
        events = open_store(store or str(data.with_name(data.name + ".events.sqlite")))
        service = RankingService(bundle, history, store=events, options=options, until=until, request_log=request_log)
        retrieval = None if retriever is None else _retrieval_beside(service, retriever)
        models = run_folder if is_published(run_folder) else None
        run(service, listening, taken, models=models, retrieval=retrieval)


def _bundle_to_serve(folder: Path, options: "ServiceOptions") -> "Bundle":
    """The bundle of a run, or the current one of published models, which must still score as when it was published."""
    from genrank.artifacts.bundle import load_bundle
    from genrank.inference.published import check_golden, current, is_published
    from genrank.nn.devices import device_named, precision_on

    device = device_named(options.device)
    if not is_published(folder):
        return load_bundle(folder)
    bundle = load_bundle(folder / current(folder))
    check_golden(bundle, device=device, precision=precision_on(device, options.precision))
    return bundle


def _retrieval_beside(service: "RankingService", retriever: Path) -> "RetrievalService":
    """A retriever's service with the users and items of the ranking service, which tells it what is new."""
    from genrank.server.retrieval_service import RetrievalService

    retrieval = RetrievalService(retriever, contexts=service.contexts, options=service.options, clock=service.clock)
    service.readers.append(retrieval.catch_up)
    service.vital.append(retrieval.failure)
    return retrieval


def store(
    store: Annotated[str, argument("STORE", "SQLite file or redis:// address, as for genrank serve --store")],
    action: Annotated[Literal["list", "show", "check", "repair", "delete"], Argument(show_default=False)],
    user: Annotated[list[str] | None, option("user whose events to show or delete; may be repeated")] = None,
    event: Annotated[
        list[str] | None, option("delete only this event of the user; show prints its key", metavar="KEY")
    ] = None,
    item: Annotated[list[str] | None, option("item to show or delete; may be repeated")] = None,
    model: Annotated[Path | None, option("run with the schema that stored entries must fit", metavar="RUN")] = None,
    limit: Annotated[int, Option(help="number of users and items to list")] = 20,
    json: Json = False,
) -> None:
    """Inspect a store of live events and items, repair it, delete from it."""
    from genrank.artifacts.bundle import load_bundle
    from genrank.inference.stored import SchemaCheck, open_existing, shown_events, shown_items, summary

    users, items = user or [], item or []
    if action in ("show", "delete") and not users and not items:
        raise ConfigError(f"genrank store {action}: give --user or --item")
    if event and len(users) != 1:
        raise ConfigError(f"genrank store: --event needs exactly one --user, found {len(users)}")
    if action == "repair" and model is None:
        raise ConfigError("genrank store repair: give the --model whose schema decides what can be read")
    schema = SchemaCheck(None if model is None else load_bundle(model))
    with closing(open_existing(store, writing=action in ("repair", "delete"))) as stored:
        if action == "list":
            found: Any = summary(stored, limit=limit)
        elif action == "show":
            found = {name: shown_events(stored, name) for name in users} | {"items": shown_items(stored, items)}
        elif action == "check":
            reasons = schema.left_out(stored).reasons
            found = {"unreadable": [{**name._asdict(), "reason": reason} for name, reason in reasons.items()]}
        elif action == "repair":
            found = dict(zip(("mended", "deleted"), schema.repair(stored), strict=True))
        elif event:
            found = {"deleted": stored.delete(items=items, events=[(users[0], key) for key in event])}
        else:
            found = {"deleted": stored.delete(items=items) + sum(stored.delete(user=name) for name in users)}
    sys.stdout.write(json_text(found) if json else "\n".join(_store_lines(found)) + "\n")


def _store_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """The findings of `genrank store` as text: a line per element of a list, and a line per name."""
    for name, value in found.items():
        if isinstance(value, list):
            yield from (json_text(part, indent=None).strip() for part in value)
            yield f"{name}: {len(value)}"
        else:
            yield f"{name}: {json_text(value, indent=None).strip() if isinstance(value, dict) else value}"


def replay(
    log: Annotated[Path, argument("FILE", "written by genrank serve --log-requests")],
    data: Annotated[Path, option("prepared folder with the histories")],
    run_folder: Annotated[Path | None, option("run or published models (default: as logged)", "--run")] = None,
    limit: Annotated[int | None, option("number of rankings, from the file's start (default: all)")] = None,
    json: Json = False,
) -> None:
    """Compute served rankings again offline, and compare the scores."""
    from rich.console import Console

    from genrank.cli.answer_tables import replay_table
    from genrank.inference.replay import replay
    from genrank.text_table import to_rich

    if limit is not None and limit < 1:
        raise ConfigError(f"--limit {limit}: it must be at least 1")
    found = replay(log, data, run=run_folder, limit=limit)
    if json:
        sys.stdout.write(json_text(found.to_json()))
    else:
        Console().print(to_rich(replay_table(found)))
