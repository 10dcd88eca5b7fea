"""From what a user names as target, recordings, bundled voices or .avq files, to one voice."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from audiovq.bitstream.container import is_avq
from audiovq.bitstream.speech_file import model_blocks
from audiovq.bitstream.speech_reader import SpeechReader
from audiovq.conversion.pitch import median_hz
from audiovq.conversion.target import TargetVoice
from audiovq.conversion.voices import find_voice
from audiovq.errors import AudioVQError
from audiovq.io import errors_about, open_input
from audiovq.media.waveform import open_audio

if TYPE_CHECKING:
    from audiovq.interfaces import Codec


OPENING_PACKETS = 3
"""Packets of an .avq file from which its median pitch is taken."""


def target_voice(codec: Codec, targets: Sequence[str | Path], voice: TargetVoice | None = None) -> TargetVoice:
    """The voice of all ``targets`` together: paths of recordings or .avq files, names of bundled voices.

    A path that exists comes before a name. Of an .avq file the header's vector is taken. They are added to ``voice``,
    where there is one.

    Raises:
        AudioVQError: for what is neither, cannot be read, was written by another model, or holds too little speech.
    """
    if not targets:
        raise AudioVQError("no target voice was named")
    if voice is None:
        name = " and ".join(map(str, targets)) if len(targets) < 4 else f"{len(targets)} targets"
        voice = TargetVoice(codec, name)
    for target in targets:
        name = str(target)
        if not os.path.exists(name):
            add_bundled(voice, codec, name)
        elif os.path.isdir(name):
            raise AudioVQError(f"{name}: is a folder; name the target's recordings one by one")
        elif is_avq(name):
            _add_avq(voice, codec, name)
        else:
            add_recording(voice, codec, name)
    return voice


def gather_voice(codec: Codec, targets: Sequence[str | Path | np.ndarray]) -> TargetVoice:
    """The voice of all targets together: recordings (T,) at the codec's rate, paths and names."""
    voice = TargetVoice(codec)
    for target in targets:
        if isinstance(target, str | Path):
            target_voice(codec, [target], voice)
        else:
            voice.add(target)
            voice.finish_recording()
    return voice


def add_bundled(voice: TargetVoice, codec: Codec, name: str) -> None:
    """Add a voice that came with the model.

    Raises:
        AudioVQError: when there is none of this name.
    """
    found = find_voice(codec, name)
    voice.add_vector(np.array(found.vector), found.pitch)


def add_recording(voice: TargetVoice, codec: Codec, path: str) -> None:
    """Add a recording of any length, all channels mixed.

    Raises:
        AudioVQError: when it cannot be read.
    """
    with errors_about(path), open_audio(path) as audio:
        for samples in model_blocks(audio, codec, mono=True):
            if samples is not None:
                voice.add(samples[:, 0])
        voice.finish_recording()
        voice.remarks += [f"{path}: {remark}" for remark in audio.remarks]


def _add_avq(voice: TargetVoice, codec: Codec, path: str) -> None:
    with errors_about(path), open_input(path) as stream:
        speech = SpeechReader(stream)
        speech.expect(codec)
        speakers = speech.header.speakers
        packets = [packet[0] for packet in islice(speech.packets(), OPENING_PACKETS) if isinstance(packet, list)]
    pitch = median_hz(packet.pitch for packet in packets)
    for vector in np.unique(speakers, axis=0):
        voice.add_vector(vector, pitch)
