"""Retrievers. Their configuration is imported here, so that it is known by its `kind` in files."""

from genrank.retrieval.retriever_config import RetrieverConfig

__all__ = ["RetrieverConfig"]
