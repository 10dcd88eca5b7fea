"""``audiovq generate``: samples from a prior over codes, a sub-command for each medium."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from audiovq.cli import options, visual
from audiovq.cli.loading import check_folder, plan_samples
from audiovq.errors import AudioVQError, need
from audiovq.interfaces import CodedChannel
from audiovq.io import check_input, errors_about

if TYPE_CHECKING:
    from audiovq.interfaces import Codec
    from audiovq.prior.sampler import SpeechSampler

LONGEST = 86400.0
"""Seconds: a day."""

app = typer.Typer(rich_markup_mode=None)


@app.callback()
def generate() -> None:
    """Sample from the prior over a codec's codes; see `audiovq generate MEDIUM --help` for the options.

    Images and video need PyTorch: pip install 'audiovq[torch]'. Sample i depends on the seed and i alone, not on the
    number of samples.
    """


Output = Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Folder for sample-01.wav and so on.")]
Speaker = Annotated[
    str,
    typer.Option(
        metavar="NAME|FILE|random",
        help="A bundled speaker (audiovq speakers), a recording or .avq file, or random: a new speaker for each "
        "sample; default: the prompt's, else random.",
        show_default=False,
    ),
]


@app.command(short_help="Sample speech, or continue a recording.")
def speech(
    output: Output,
    seconds: Annotated[
        float, typer.Option(metavar="S", help="Seconds of each sample; with --prompt, of what follows it.")
    ] = 10.0,
    samples: options.Samples = 4,
    speaker: Speaker = "",
    prompt: Annotated[
        str | None, typer.Option(metavar="FILE", help="A recording or .avq file to continue.", show_default=False)
    ] = None,
    language: Annotated[
        str | None,
        typer.Option(metavar="CODE", help="ISO 639 code of a language of the training data.", show_default=False),
    ] = None,
    temperature: options.Temperature = None,
    top_k: options.TopK = 0,
    top_p: options.TopP = None,
    seed: options.Seed = 0,
    codebooks: options.FirstCodebooks = None,
    decoder: options.Decoder = "parallel",
    engine: options.Engine = "auto",
    model: options.Model = None,
    prior: options.Prior = None,
    format: Annotated[str, typer.Option(metavar="wav|avq|both", help="What to write.")] = "wav",
    force: options.Force = False,
) -> None:
    """Sample speech: unconditionally, by a given speaker, or as a continuation of a recording.

    The samples sound like speech but form no meaningful sentences. A continuation starts with the prompt's pitch,
    level and codes, and has its speaker unless --speaker names another one.
    """
    from audiovq.cli import loading

    targets = plan_samples(output, samples, (".wav", ".avq"), format, force)
    if not 0 < seconds <= LONGEST:
        raise AudioVQError(f"--seconds is above 0 and at most a day, not {seconds:g}")
    if prompt is not None:
        check_input(prompt)
    loading.check_decoder(decoder, [model])
    if speaker not in ("", "random"):
        loading.check_voice(speaker, loading.facts(model))
    source = _load(model, prior, loading.engine_for(engine, decoder), seed)
    if codebooks is not None:
        source.codec.check_n_codebooks(codebooks)
    start = time.perf_counter()
    given = None if prompt is None else _read_prompt(source, prompt, codebooks)
    vector = None if speaker in ("", "random") else _speaker_vector(source.codec, speaker)
    check_folder(output)
    settings: dict[str, Any] = {"language": language, "prompt": given, "seed": seed, "n_codebooks": codebooks}
    settings |= {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    total = _sample_speech(source, seconds, vector, speaker == "random", settings, targets, decoder)
    rate = f"{total:.2f} s of audio, {total / (time.perf_counter() - start):.1f} times real time"
    print(f"{samples} sample{'s' * (samples > 1)} in {_short(output)}: {rate}", file=sys.stderr)


app.command("image")(visual.image)
app.command("video")(visual.video)


def _short(path: Path) -> str:
    return min(str(path), os.path.relpath(path), key=len)


def _load(model: str | None, prior: str | None, engine: str, seed: int) -> SpeechSampler:
    """The model and its prior; on PyTorch, with ``auto``, also where the prior can be sampled by PyTorch alone.

    Raises:
        AudioVQError: when there is no such model or prior, for ones that are damaged or do not belong together, for
            ONNX Runtime and a prior without a transformer, and for an engine that is not installed.
    """
    from audiovq.cli.loading import Models
    from audiovq.codec.onnx_codec import OnnxCodec
    from audiovq.prior.sampler import SpeechSampler, load_sampler, prior_folder
    from audiovq.prior.weights import is_transformer

    folder = prior_folder(model, prior)  # before loading the codec, which takes longer
    if not is_transformer(folder):
        if engine == "onnx":
            raise AudioVQError(f"the prior in {folder} has no transformer and needs PyTorch: leave out --engine onnx")
        engine = "torch" if engine == "auto" else engine
    if engine == "torch":
        need("torch", "the engine torch", "torch")
        need("numba", "the engine torch", "torch")
    codec = Models(seed=seed, engine=engine).load(model)
    if isinstance(codec, OnnxCodec):
        return SpeechSampler(codec, *load_sampler(folder, codec))
    from audiovq.prior.speech import SpeechPrior, load_prior

    return SpeechPrior(codec, *load_prior(folder, codec))


def _sample_speech(
    source: SpeechSampler,
    seconds: float,
    speaker: np.ndarray | None,
    random: bool,
    settings: dict[str, Any],
    targets: Sequence[list[Path]],
    decoder: str,
) -> float:
    """Sample and write batch after batch; the seconds of all samples together."""
    from audiovq.cli.jobs import Display
    from audiovq.prior.sampler import BATCH

    total = 0.0
    with Display(-(-len(targets) // BATCH)) as display:
        for first in range(0, len(targets), BATCH):
            batch = targets[first : first + BATCH]
            size = len(batch)
            if random:  # where the prompt's speaker is not wanted
                speaker = np.stack([source.random_voice(settings["seed"], first + i) for i in range(size)])
            with display.file(f"samples {first + 1} to {first + size}" if size > 1 else f"sample {first + 1}") as tell:
                channels = source.sample(
                    seconds,
                    size,
                    speaker,
                    first=first,
                    progress=lambda done, frames, tell=tell: tell(done, 2 * frames),  # type: ignore[misc]
                    **settings,
                )
                for i, (channel, paths) in enumerate(zip(channels, batch, strict=True)):
                    _write_speech(source.codec, channel, paths, decoder)
                    tell(size + i + 1, 2 * size)
            total += sum(channel.n_samples for channel in channels) / source.codec.sample_rate
    return total


def _read_prompt(source: SpeechSampler, path: str, codebooks: int | None) -> CodedChannel:
    """Coded speech of a recording (channels mixed) or of an .avq file (its first channel, as it is)."""
    from audiovq.bitstream.speech_file import load_channels
    from audiovq.conversion.files import is_avq

    if is_avq(path):
        prompt = load_channels(path, source.codec)[0]
    else:
        prompt = _encode_prompt(source.codec, path, codebooks or source.prior.drawn_codebooks)
    n_codebooks = len(prompt.packets[0].codes)
    if codebooks is not None and codebooks > n_codebooks:
        raise AudioVQError(f"{path} has {n_codebooks} codebooks, not {codebooks}")
    return prompt


def _encode_prompt(codec: Codec, path: str, n_codebooks: int) -> CodedChannel:
    from audiovq.bitstream.speech_file import model_blocks
    from audiovq.media.waveform import open_audio

    stream, packets, n_samples = codec.encoder_stream(n_codebooks), [], 0
    with errors_about(path), open_audio(path) as audio:
        for block in model_blocks(audio, codec, mono=True):
            if block is None:
                packets += stream.finish()
            else:
                packets += stream.push(np.ascontiguousarray(block[:, 0]))
                n_samples += len(block)
    for remark in audio.remarks:
        print(f"audiovq: {path}: {remark}", file=sys.stderr)
    assert stream.speaker is not None
    return CodedChannel(packets, stream.speaker, n_samples, codec.packet_frames)


def _speaker_vector(codec: Codec, speaker: str) -> np.ndarray:
    """The vector of a bundled or recorded speaker; warnings go to stderr."""
    from audiovq.conversion.target import target_voice

    target = target_voice(codec, [speaker])
    vector = target.vector()
    for line in target.warnings():
        print(f"audiovq: {target.name}: warning: {line}", file=sys.stderr)
    return vector


def _write_speech(codec: Codec, channel: CodedChannel, targets: Sequence[Path], decoder: str) -> None:
    from audiovq.bitstream.speech_file import save_channels
    from audiovq.media.waveform import create_audio

    for path in targets:
        if path.suffix == ".avq":
            save_channels([channel], path, codec)
            continue
        stream = codec.decoder_stream(channel.speaker, decoder)
        with create_audio(path, codec.sample_rate, 1) as writer:
            for packet in channel.packets:
                writer.write(stream.push(packet)[:, None])
            writer.write(stream.finish(channel.n_samples)[:, None])
