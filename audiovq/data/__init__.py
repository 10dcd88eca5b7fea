"""Recordings: one module per source, each giving the same `Utterance`; and shards of their codes, `TokenShards`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from audiovq.data.corpora import open_corpora, open_corpus
from audiovq.data.utterance import Utterance, open_shards, write_shards

if TYPE_CHECKING:
    from audiovq.data.tokens import TokenDataset, TokenShards

__all__ = ["TokenDataset", "TokenShards", "Utterance", "open_corpora", "open_corpus", "open_shards", "write_shards"]


def __getattr__(name: str) -> Any:
    if name in ("TokenDataset", "TokenShards"):  # they need PyTorch
        return getattr(import_module("audiovq.data.tokens"), name)
    raise AttributeError(f"module 'audiovq.data' has no attribute {name!r}")
