"""``audiovq convert``: speech in another voice."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from audiovq.cli.options import Channels, Decoder, Engine, Force, Packet, Rate, Raw, Threads, WaveNetSeed, given
from audiovq.errors import AudioVQError

if TYPE_CHECKING:
    from audiovq.bitstream.speech_file import CodingReport, Progress
    from audiovq.cli.jobs import Job
    from audiovq.conversion.pitch import Pitch
    from audiovq.conversion.target import TargetVoice
    from audiovq.interfaces import Codec
    from audiovq.media.samples import RawFormat

MOST_SEMITONES = 24
LIVE_PACKET = 80.0
"""Milliseconds of a packet with ``--live``, where ``--packet`` says nothing."""


Inputs = Annotated[
    list[str], typer.Argument(metavar="IN", help="Audio or .avq files, folders, or - for standard input.")
]
To = Annotated[
    list[str],
    typer.Option(
        "--to",
        metavar="TARGET",
        help="Target speaker: a recording, an .avq file, or the name of a bundled speaker (audiovq speakers). "
        "Repeat it to average several.",
    ),
]
Output = Annotated[
    str,
    typer.Option(
        "-o", "--output", metavar="OUT", help="A file (.avq: stays coded), a folder, or - for standard output (WAV)."
    ),
]
SourceVoice = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="SOURCE",
        help="A recording of the source speaker: live conversion then waits neither for the speaker vector nor for "
        "the median pitch.",
        show_default=False,
    ),
]
Live = Annotated[
    bool,
    typer.Option(
        "--live",
        help="For live speech: less than half a second of delay, with packets of 80 ms and networks that look ahead "
        "0.24 s instead of 0.82 s. The output differs a little from that of a file. Needs --from.",
    ),
]
Codebooks = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Use the first N codebooks; fewer retain less of the source speaker but lose more words; default: the "
        "model's.",
        show_default=False,
    ),
]
PitchOption = Annotated[
    str,
    typer.Option(
        metavar="auto|keep|SEMITONES",
        help="auto: shift the pitch to the target's median; keep: leave it; a number: shift it by that many semitones.",
    ),
]
Model = Annotated[
    str | None,
    typer.Option(metavar="NAME|DIR", help="Default: the bundled model, or that of an .avq file.", show_default=False),
]


def convert(
    context: typer.Context,
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
    mono: Annotated[bool, typer.Option("--mono", help="Mix all channels of audio down to one.")] = False,
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
    from audiovq.cli import loading
    from audiovq.cli.jobs import run
    from audiovq.cli.loading import packet_frames_for
    from audiovq.conversion.files import convert_file
    from audiovq.hub import bundled_models

    moved = parse_pitch(pitch)
    jobs = _jobs(context, inputs, output, raw, rate, channels)
    codes_alone = model is None and all(_is_coded(job.source) for job in jobs)
    loading.check_decoder(decoder, list(bundled_models()) if codes_alone else [model])
    for name in to if source_voice is None else [*to, source_voice]:
        loading.check_voice(name, None if codes_alone else loading.facts(model))
    length = _live_packet(packet, source_voice) if live and not codes_alone else packet
    packet_frames = None if codes_alone else packet_frames_for(loading.facts(model), length)
    voices = _Voices(to, source_voice, model, threads, seed, loading.engine_for(engine, decoder))

    def prepare() -> None:
        # Errors of the target are reported before the first file is begun.
        if live or model is not None or any(not _is_coded(job.source) for job in jobs if job.source != "-"):
            voices.prepare()
        if live and any(job.source == "-" for job in jobs):
            voices.warm_up(moved, codebooks, packet_frames, decoder)

    def work(job: Job, progress: Progress) -> CodingReport:
        settings = (codebooks, moved, decoder, mono, progress)
        formats = _raw_formats(job, raw, rate, channels)
        rest = (*formats, packet_frames, None if source_voice is None else voices.source, live)
        return convert_file(job.source, job.target, voices.model, voices.target, *settings, *rest)

    run(jobs, force, voices.models, prepare, work)


def _live_packet(packet: float | None, source_voice: str | None) -> float:
    """Milliseconds of a packet of live speech.

    Raises:
        AudioVQError: without a recording of the source speaker.
    """
    if source_voice is None:
        raise AudioVQError(
            "--live needs --from, a recording of the source speaker, or the output waits for four seconds"
        )
    return LIVE_PACKET if packet is None else packet


def _jobs(
    context: typer.Context, inputs: list[str], output: str, raw: str | None, rate: int | None, channels: int | None
) -> list[Job]:
    """The files to convert; a job has a fault where options were given that have no effect on it."""
    from audiovq.cli.jobs import plan
    from audiovq.media.containers import CONTAINER_SUFFIXES
    from audiovq.media.waveform import RAW_SUFFIXES, READABLE, check_writable

    suffixes = (*READABLE, *CONTAINER_SUFFIXES, ".avq") if raw is None else (*RAW_SUFFIXES, ".avq")
    jobs = plan(inputs, output, suffixes, lambda name: ".avq" if _is_coded(name) else ".wav")
    for job in jobs:
        if not _is_coded(job.target):
            check_writable(job.target, _raw_formats(job, raw, rate, channels)[1])
    return [job if job.fault else _refused(context, job) for job in jobs]


class _Voices:
    """The models that the inputs need, and for each of them the target's voice and the source's."""

    def __init__(
        self, targets: list[str], source: str | None, model: str | None, threads: int, seed: int, engine: str
    ) -> None:
        from audiovq.cli.loading import Models

        self._targets, self._source, self._model = targets, source or "", model
        self.models = Models(threads, seed, engine=engine)
        self._target_voices: dict[bytes, TargetVoice] = {}
        self._source_voices: dict[bytes, TargetVoice] = {}

    def model(self, model_hash: bytes | None) -> Codec:
        """The model for a coded file with this hash; None: for audio."""
        if self._model is not None or model_hash is None:
            return self.models.load(self._model)
        return self.models.by_hash(model_hash)

    def target(self, codec: Codec) -> TargetVoice:
        """The target for this model, made once; its warnings are printed then."""
        from audiovq.conversion.target import target_voice

        if codec.model_hash not in self._target_voices:
            voice = target_voice(codec, self._targets)
            voice.vector()  # what cannot be used is an error, with no warnings before it
            self._target_voices[codec.model_hash] = voice
            for line in voice.warnings():
                print(f"audiovq: {voice.name}: warning: {line}", file=sys.stderr)
        return self._target_voices[codec.model_hash]

    def source(self, codec: Codec) -> TargetVoice:
        """The source's voice for this model, made once."""
        from audiovq.conversion.target import target_voice

        if codec.model_hash not in self._source_voices:
            self._source_voices[codec.model_hash] = target_voice(codec, [self._source])
        return self._source_voices[codec.model_hash]

    def prepare(self) -> None:
        """Load the model for audio, and make both voices for it."""
        codec = self.model(None)
        self.target(codec)
        if self._source:
            self.source(codec)

    def warm_up(self, pitch: Pitch, n_codebooks: int | None, packet_frames: int | None, decoder: str) -> None:
        """See that live speech finds everything loaded, and say so on standard error."""
        from audiovq.conversion.files import make_conversion, warm_up

        codec = self.model(None)
        conversion = make_conversion(self.target(codec), pitch, self.source(codec), live=True)
        warm_up(codec, conversion, n_codebooks, packet_frames, decoder)
        print("audiovq: ready", file=sys.stderr, flush=True)


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


def _refused(context: typer.Context, job: Job) -> Job:
    """The job, with a fault where options were given that have no effect on it."""
    from dataclasses import replace

    from audiovq.conversion.files import is_avq

    if job.source == "-" and context.params["live"]:  # the model is loaded before anything is waited for
        return job
    coded = is_avq("-") if job.source == "-" else _is_coded(job.source)
    names, reason = _WITHOUT_EFFECT.get((coded, _is_coded(job.target)), ((), ""))
    if coded and not _goes_raw(job.target):
        names = (*names, "raw", "rate", "channels")
    used = given(context, *names)
    if not used:
        return job
    name = "standard input" if job.source == "-" else job.source
    return replace(job, fault=f"{name}: {' and '.join(used)} {'is' if len(used) == 1 else 'are'} {reason}")


def _goes_raw(target: str) -> bool:
    """Whether a target may be raw audio."""
    from audiovq.media.waveform import RAW_SUFFIXES

    return target == "-" or Path(target).suffix.lower() in RAW_SUFFIXES


def _raw_formats(
    job: Job, raw: str | None, rate: int | None, channels: int | None
) -> tuple[RawFormat | None, RawFormat | None]:
    """The formats of what is read and written without a header."""
    from dataclasses import replace

    from audiovq.cli.options import raw_source, raw_target

    if _is_coded(job.source):
        return None, raw_target(raw, rate, channels) if _goes_raw(job.target) else None
    source = raw_source(raw, rate, channels)
    if source is None or not _goes_raw(job.target):
        return source, None
    return source, replace(source, sample_rate=0, n_channels=0)


def _is_coded(name: str) -> bool:
    return name.lower().endswith(".avq")


def parse_pitch(text: str) -> Pitch:
    """What ``--pitch`` says.

    Raises:
        AudioVQError: for what is no interval that can be shifted by.
    """
    if text == "auto":
        return "auto"
    if text == "keep":
        return "keep"
    try:
        semitones = float(text)
    except ValueError:
        semitones = float("nan")
    if not -MOST_SEMITONES <= semitones <= MOST_SEMITONES:
        raise AudioVQError(
            f"--pitch takes auto, keep, or -{MOST_SEMITONES} to {MOST_SEMITONES} semitones, not {text!r}"
        )
    return semitones
