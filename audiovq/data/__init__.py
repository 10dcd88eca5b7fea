"""Recordings: one module per source, each giving the same `Utterance`."""

from audiovq.data.corpora import open_corpora, open_corpus
from audiovq.data.shards import open_shards, write_shards
from audiovq.data.utterance import Utterance

__all__ = ["Utterance", "open_corpora", "open_corpus", "open_shards", "write_shards"]
