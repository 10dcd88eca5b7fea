"""Coding recordings on an accelerator: whole recordings in batches, see `audiovq.codec.windows`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from audiovq.data.token_sources import Coded, TokenSource, make_items, open_source
from audiovq.media.waveform import Resampler, n_resampled

if TYPE_CHECKING:
    from audiovq.codec.codec import SpeechCodec

BATCH_SECONDS = 1200.0
"""Audio that is read before it is coded: 80 MB; a longer recording is a batch of its own."""


@dataclass
class Loaded:
    """A recording in memory.

    Attributes:
        source: which one.
        text: its transcript.
        audio: its reader, with what is known of it.
        channels: (T,) float32 at the codec's rate, each.
    """

    source: TokenSource
    text: str | None
    audio: Any
    channels: list[np.ndarray]


def load_source(source: TokenSource, sample_rate: int, mono: bool) -> Loaded:
    """Read a recording at ``sample_rate``.

    Raises:
        AudioVQError: for a recording that cannot be read.
    """
    with open_source(source) as (audio, text):
        n_channels = audio.count_channels(mono)
        resampler = Resampler(audio.sample_rate, sample_rate, n_channels)
        blocks = [resampler.push(block) for block in audio.blocks(mono)]
        blocks.append(resampler.finish(n_resampled(audio.n_read, audio.sample_rate, sample_rate)))
    return Loaded(source, text, audio, list(np.ascontiguousarray(np.concatenate(blocks).T)))


def code_batches(
    codec: SpeechCodec,
    sources: Iterable[TokenSource],
    n_codebooks: int,
    mono: bool,
    guarded: Callable[[TokenSource, Callable[[], Any]], Any],
    batch_seconds: float = BATCH_SECONDS,
) -> Iterator[Coded]:
    """Code recordings in their order, many at a time.

    Args:
        codec: the model, on its device.
        sources: what to code.
        n_codebooks: to keep.
        mono: mix all channels down to one first.
        guarded: calls a function for a source and gives its result, or a `Coded` with the fault that it raised.
        batch_seconds: audio of a batch.
    """
    waiting: list[Loaded | Coded] = []
    n_samples = 0
    for source in sources:
        waiting.append(guarded(source, lambda source=source: load_source(source, codec.sample_rate, mono)))  # type: ignore[misc]
        if isinstance(waiting[-1], Loaded):
            n_samples += sum(map(len, waiting[-1].channels))
        if n_samples >= batch_seconds * codec.sample_rate:
            yield from _code(codec, waiting, n_codebooks)
            waiting, n_samples = [], 0
    yield from _code(codec, waiting, n_codebooks)


def _code(codec: SpeechCodec, batch: list[Loaded | Coded], n_codebooks: int) -> Iterator[Coded]:
    from audiovq.codec.windows import encode_batch

    loaded = [one for one in batch if isinstance(one, Loaded)]
    channels = [channel for one in loaded for channel in one.channels]
    coded = iter(encode_batch(codec, channels, n_codebooks) if channels else ())
    for one in batch:
        if isinstance(one, Coded):
            yield one
            continue
        rows = [next(coded) for _ in one.channels]
        items = make_items(one.source, one.text, one.audio, rows, len(one.channels[0]))
        yield Coded(one.source.id, one.source.n_bytes, items, remarks=one.audio.remarks)
