"""Generative ranking for recommender systems: from exposure logs to served rankings.

What is listed in `__all__` is public and keeps its meaning within a minor version; everything else may change.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from genrank.api import Run, Walk, evaluate, load, prepare, score, train, walk
    from genrank.client import AsyncClient, Client
    from genrank.data.prepared import PreparedData
    from genrank.errors import GenRankError
    from genrank.inference.gen_ranker import GenRanker
    from genrank.inference.gen_retriever import GenRetriever
    from genrank.recipes import recipe
    from genrank.runs.run_config import RunConfig
    from genrank.schema import LogSchema

    __version__: str

__all__ = [
    "AsyncClient",
    "Client",
    "GenRankError",
    "GenRanker",
    "GenRetriever",
    "LogSchema",
    "PreparedData",
    "Run",
    "RunConfig",
    "Walk",
    "__version__",
    "evaluate",
    "load",
    "prepare",
    "recipe",
    "score",
    "train",
    "walk",
]

_HOMES = {
    "AsyncClient": "client",
    "Client": "client",
    "GenRankError": "errors",
    "GenRanker": "inference.gen_ranker",
    "GenRetriever": "inference.gen_retriever",
    "LogSchema": "schema",
    "PreparedData": "data.prepared",
    "Run": "api",
    "RunConfig": "runs.run_config",
    "Walk": "api",
    "evaluate": "api",
    "load": "api",
    "prepare": "api",
    "recipe": "recipes",
    "score": "api",
    "train": "api",
    "walk": "api",
}


def __getattr__(name: str) -> object:
    """A public name, imported on first use so that `import genrank` does not import torch."""
    if name == "__version__":
        return _installed_version()
    if name in _HOMES:
        return getattr(import_module(f"genrank.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'genrank' has no attribute {name!r}")


def _installed_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("genrank")
    except PackageNotFoundError:  # running from a source tree that is not installed
        return "0+source"
