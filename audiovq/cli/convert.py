"""``audiovq convert``: speech in another voice."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from typer import Argument, Context, Option

from audiovq import hub
from audiovq.bitstream.speech_file import CodingReport, Progress
from audiovq.cli import loading
from audiovq.cli.jobs import Job, plan, run
from audiovq.cli.options import (
    Channels,
    Decoder,
    Engine,
    Force,
    Packet,
    Rate,
    Raw,
    Threads,
    WaveNetSeed,
    raw_source,
    raw_target,
    unused,
)
from audiovq.conversion.files import convert_file, is_avq, make_conversion, warm_up
from audiovq.conversion.pitch import Pitch
from audiovq.conversion.target import TargetVoice, target_voice
from audiovq.errors import AudioVQError
from audiovq.interfaces import Codec
from audiovq.media.containers import CONTAINER_SUFFIXES
from audiovq.media.samples import RawFormat
from audiovq.media.waveform import RAW_SUFFIXES, READABLE, check_writable

MOST_SEMITONES = 24
LIVE_PACKET = 80.0
"""Milliseconds of a packet with ``--live``, where ``--packet`` says nothing."""


Inputs = Annotated[list[str], Argument(metavar="IN", help="Audio or .avq files, folders, or - for standard input.")]
To = Annotated[
    list[str],
    Option(
        "--to",
        metavar="TARGET",
        help="Target speaker: a recording, an .avq file, or the name of a bundled speaker (audiovq speakers). "
        "Repeat it to average several.",
    ),
]
Output = Annotated[
    str,
    Option(
        "-o", "--output", metavar="OUT", help="A file (.avq: stays coded), a folder, or - for standard output (WAV)."
    ),
]
SourceVoice = Annotated[
    str | None,
    Option(
        "--from",
        metavar="SOURCE",
        help="A recording of the source speaker: live conversion then waits neither for the speaker vector nor for "
        "the median pitch.",
    ),
]
Live = Annotated[
    bool,
    Option(
        "--live",
        help="For live speech: less than half a second of delay, with packets of 80 ms and networks that look ahead "
        "0.24 s instead of 0.82 s. The output differs a little from that of a file. Needs --from.",
    ),
]
Codebooks = Annotated[
    int | None,
    Option(
        min=1,
        metavar="N",
        help="Use the first N codebooks; fewer retain less of the source speaker but lose more words; default: the "
        "model's.",
    ),
]
PitchOption = Annotated[
    str,
    Option(
        metavar="auto|keep|SEMITONES",
        help="auto: shift the pitch to the target's median; keep: leave it; a number: shift it by that many semitones.",
    ),
]
Model = Annotated[str | None, Option(metavar="NAME|DIR", help="Default: the bundled model, or that of an .avq file.")]


def convert(
    context: Context,
    inputs: Inputs,
    to: To,
    output: Output,
    source_voice: SourceVoice = None,
    codebooks: Codebooks = None,
    pitch: PitchOption = "auto",
    decoder: Decoder = "parallel",
    seed: WaveNetSeed = 0,
    model: Model = None,
    force: Force = False,
    mono: Annotated[bool, Option("--mono", help="Mix all channels of audio down to one.")] = False,
    raw: Raw = None,
    rate: Rate = None,
    channels: Channels = None,
    packet: Packet = None,
    live: Live = False,
    threads: Threads = 1,
    engine: Engine = "auto",
) -> None:
    """Convert recordings or .avq files to another speaker.

    Audio is encoded, and decoded with the target's speaker vector, as it arrives, with the source's rate, channels and
    exact length. An .avq file that becomes an .avq file is not decoded: the speaker vector in its header is replaced,
    its pitch is shifted, and its codes stay. A folder is searched for audio and .avq files and mirrored under OUT; .avq
    files stay coded. With --raw the audio that is read has no header, nor has audio written to standard output or to
    .raw and .pcm files.
    """
    moved = parse_pitch(pitch)
    jobs = _jobs(context, inputs, output, raw, rate, channels)
    codes_alone = model is None and all(_is_coded(job.source) for job in jobs)
    loading.check_decoder(decoder, list(hub.bundled_models()) if codes_alone else [model])
    for name in to if source_voice is None else [*to, source_voice]:
        loading.check_voice(name, None if codes_alone else loading.facts(model))
    length = _live_packet(packet, source_voice) if live and not codes_alone else packet
    packet_frames = None if codes_alone else loading.packet_frames_for(loading.facts(model), length)
    voices = _Voices(loading.Models(threads, seed, engine=loading.engine_for(engine, decoder)), model, to, source_voice)

    def prepare() -> None:
        # Errors of the target are reported before the first file is begun.
        if live or model is not None or any(not _is_coded(job.source) for job in jobs if job.source != "-"):
            codec = voices.model(None)
            voice, known = voices.target(codec), None if source_voice is None else voices.source(codec)
            if live and any(job.source == "-" for job in jobs):
                conversion = make_conversion(voice, moved, known, live=True)
                warm_up(codec, conversion, codebooks, packet_frames, decoder)
                print("audiovq: ready", file=sys.stderr, flush=True)

    def work(job: Job, progress: Progress) -> CodingReport:
        settings = (codebooks, moved, decoder, mono, progress)
        formats = _raw_formats(job, raw, rate, channels)
        rest = (*formats, packet_frames, None if source_voice is None else voices.source, live)
        return convert_file(job.source, job.target, voices.model, voices.target, *settings, *rest)

    run(jobs, force, voices.models, prepare, work)


def _live_packet(packet: float | None, source_voice: str | None) -> float:
    """Milliseconds of a packet of live speech; `AudioVQError` without a recording of the source speaker."""
    if source_voice is None:
        raise AudioVQError(
            "--live needs --from, a recording of the source speaker, or the output waits for four seconds"
        )
    return LIVE_PACKET if packet is None else packet


def _jobs(
    context: Context, inputs: list[str], output: str, raw: str | None, rate: int | None, channels: int | None
) -> list[Job]:
    """The files to convert; a job has a fault where options were given that have no effect on it."""
    suffixes = (*READABLE, *CONTAINER_SUFFIXES, ".avq") if raw is None else (*RAW_SUFFIXES, ".avq")
    jobs = plan(inputs, output, suffixes, lambda name: ".avq" if _is_coded(name) else ".wav")
    for job in jobs:
        if not _is_coded(job.target):
            check_writable(job.target, _raw_formats(job, raw, rate, channels)[1])
    return [job if job.fault else _refused(context, job) for job in jobs]


class _Voices:
    """The models that the inputs need, and for each of them the target's voice and the source's, made once."""

    def __init__(self, models: loading.Models, model: str | None, targets: list[str], source: str | None) -> None:
        self.models, self._model, self._targets, self._sources = models, model, targets, [source or ""]
        self._made: dict[tuple[bytes, Callable[..., TargetVoice]], TargetVoice] = {}

    def model(self, model_hash: bytes | None) -> Codec:
        """The model for a coded file with this hash; None: for audio."""
        if self._model is not None or model_hash is None:
            return self.models.load(self._model)
        return self.models.by_hash(model_hash)

    def target(self, codec: Codec) -> TargetVoice:
        """The target for this model; its warnings are printed once."""
        return self._once(codec, loading.target_speaker, self._targets)

    def source(self, codec: Codec) -> TargetVoice:
        """The source's voice for this model."""
        return self._once(codec, target_voice, self._sources)

    def _once(self, codec: Codec, make: Callable[[Codec, list[str]], TargetVoice], names: list[str]) -> TargetVoice:
        key = (codec.model_hash, make)
        if key not in self._made:
            self._made[key] = make(codec, names)
        return self._made[key]


#: Options without effect, by whether source and target are coded, and the reason.
_WITHOUT_EFFECT = {
    (True, True): (
        ("codebooks", "decoder", "seed", "mono", "packet", "source_voice", "live"),
        "for audio; a coded file that stays coded gets another speaker and pitch",
    ),
    (True, False): (
        ("mono", "packet", "source_voice", "live"),
        "for audio; coded files keep their channels and packets",
    ),
    (False, True): (("decoder", "seed"), "for audio; the output stays coded"),
}


def _refused(context: Context, job: Job) -> Job:
    """The job, with a fault where options were given that have no effect on it."""
    if job.source == "-" and context.params["live"]:  # the model is loaded before anything is waited for
        return job
    coded = is_avq("-") if job.source == "-" else _is_coded(job.source)
    names, reason = _WITHOUT_EFFECT.get((coded, _is_coded(job.target)), ((), ""))
    if coded and not _goes_raw(job.target):
        names = (*names, "raw", "rate", "channels")
    message = unused(context, names, reason)
    name = "standard input" if job.source == "-" else job.source
    return job if message is None else replace(job, fault=f"{name}: {message}")


def _goes_raw(target: str) -> bool:
    """Whether a target may be raw audio."""
    return target == "-" or Path(target).suffix.lower() in RAW_SUFFIXES


def _raw_formats(
    job: Job, raw: str | None, rate: int | None, channels: int | None
) -> tuple[RawFormat | None, RawFormat | None]:
    """The formats of what is read and written without a header."""
    if _is_coded(job.source):
        return None, raw_target(raw, rate, channels) if _goes_raw(job.target) else None
    source = raw_source(raw, rate, channels)
    if source is None or not _goes_raw(job.target):
        return source, None
    return source, replace(source, sample_rate=0, n_channels=0)


def _is_coded(name: str) -> bool:
    return name.lower().endswith(".avq")


def parse_pitch(text: str) -> Pitch:
    """What ``--pitch`` says; `AudioVQError` for what is no interval that can be shifted by."""
    if text == "auto" or text == "keep":
        return text  # type: ignore[return-value]
    try:
        semitones = float(text)
    except ValueError:
        semitones = float("nan")
    if not -MOST_SEMITONES <= semitones <= MOST_SEMITONES:
        raise AudioVQError(
            f"--pitch takes auto, keep, or -{MOST_SEMITONES} to {MOST_SEMITONES} semitones, not {text!r}"
        )
    return semitones
