"""Generative ranking for recommender systems: from exposure logs to served rankings."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("genrank")
except PackageNotFoundError:  # running from a source tree that is not installed
    __version__ = "0+source"

__all__ = ["GenRanker", "GenRetriever", "__version__"]


def __getattr__(name: str) -> object:
    """GenRanker and GenRetriever, imported on first use so that `import genrank` does not import torch."""
    if name == "GenRanker":
        from genrank.inference.gen_ranker import GenRanker

        return GenRanker
    if name == "GenRetriever":
        from genrank.inference.gen_retriever import GenRetriever

        return GenRetriever
    raise AttributeError(f"module 'genrank' has no attribute {name!r}")
