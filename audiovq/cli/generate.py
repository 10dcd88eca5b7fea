"""``audiovq generate``: samples from a prior over codes, a sub-command for each medium."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from typer import Option

from audiovq.bitstream.container import is_avq
from audiovq.bitstream.speech_file import encode_file, load_channels, save_channels
from audiovq.bitstream.visual_file import frames_of, save_codes
from audiovq.bitstream.visual_layout import MEDIA_IMAGE, MEDIA_VIDEO
from audiovq.cli import loading, options
from audiovq.cli.jobs import Display
from audiovq.cli.loading import check_folder, plan_samples
from audiovq.errors import AudioVQError, need
from audiovq.interfaces import CodedChannel
from audiovq.io import check_input, checked
from audiovq.media.images import create_video, open_video, write_image
from audiovq.media.waveform import create_audio

if TYPE_CHECKING:
    from torch import Tensor

    from audiovq.interfaces import Codec
    from audiovq.prior.sampler import SpeechSampler
    from audiovq.video import VideoModel

app = typer.Typer(rich_markup_mode=None)


@app.callback()
def generate() -> None:
    """Sample from the prior over a codec's codes; see `audiovq generate MEDIUM --help` for the options.

    Images and video need PyTorch: pip install 'audiovq[torch]'. Sample i depends on the seed and i alone, not on the
    number of samples.
    """


Speaker = Annotated[
    str,
    Option(
        metavar="NAME|FILE|random",
        help="A bundled speaker (audiovq speakers), a recording or .avq file, or random: a new speaker for each "
        "sample; default: the prompt's, else random.",
        show_default=False,
    ),
]
Language = Annotated[str | None, Option(metavar="CODE", help="ISO 639 code of a language of the training data.")]


@app.command(short_help="Sample speech, or continue a recording.")
def speech(
    output: Annotated[Path, Option("-o", "--output", metavar="DIR", help="Folder for sample-01.wav and so on.")],
    seconds: Annotated[
        float, Option(metavar="S", help="Seconds of each sample; with --prompt, of what follows it.")
    ] = 10.0,
    samples: options.Samples = 4,
    speaker: Speaker = "",
    prompt: Annotated[str | None, Option(metavar="FILE", help="A recording or .avq file to continue.")] = None,
    language: Language = None,
    temperature: options.Temperature = None,
    top_k: options.TopK = 0,
    top_p: options.TopP = None,
    seed: options.Seed = 0,
    codebooks: options.FirstCodebooks = None,
    decoder: options.Decoder = "parallel",
    engine: options.Engine = "auto",
    model: options.Model = None,
    prior: options.Prior = None,
    format: Annotated[str, Option(metavar="wav|avq|both", help="What to write.")] = "wav",
    force: options.Force = False,
) -> None:
    """Sample speech: unconditionally, by a given speaker, or as a continuation of a recording.

    The samples sound like speech but form no meaningful sentences. A continuation starts with the prompt's pitch,
    level and codes, and has its speaker unless --speaker names another one.
    """
    targets = plan_samples(output, samples, (".wav", ".avq"), format, force)
    options.check_seconds(seconds)
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
    vector = None if speaker in ("", "random") else loading.target_speaker(source.codec, [speaker]).vector()
    check_folder(output)
    settings: dict[str, Any] = {"language": language, "prompt": given, "seed": seed, "n_codebooks": codebooks}
    settings |= {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    total = _sample_speech(source, seconds, vector, speaker == "random", settings, targets, decoder)
    rate = f"{total:.2f} s of audio, {total / (time.perf_counter() - start):.1f} times real time"
    folder = min(str(output), os.path.relpath(output), key=len)
    print(f"{samples} sample{'s' * (samples > 1)} in {folder}: {rate}", file=sys.stderr)


def _load(model: str | None, prior: str | None, engine: str, seed: int) -> SpeechSampler:
    """The model and its prior; on PyTorch, with ``auto``, also where the prior can be sampled by PyTorch alone.

    Raises:
        AudioVQError: when there is no such model or prior, for ones that are damaged or do not belong together, for
            ONNX Runtime and a prior without a transformer, and for an engine that is not installed.
    """
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
    codec = loading.Models(seed=seed, engine=engine).load(model)
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
    file: Any = path
    if not is_avq(path):
        file, n_codebooks = BytesIO(), codebooks or source.prior.drawn_codebooks
        report = encode_file(path, file, source.codec, n_codebooks, mono=True, entropy_coding=False)
        for remark in report.remarks:
            print(f"audiovq: {path}: {remark}", file=sys.stderr)
        file.seek(0)
    prompt = load_channels(file, source.codec)[0]
    n_codebooks = len(prompt.packets[0].codes)
    if codebooks is not None and codebooks > n_codebooks:
        raise AudioVQError(f"{path} has {n_codebooks} codebooks, not {codebooks}")
    return prompt


def _write_speech(codec: Codec, channel: CodedChannel, targets: Sequence[Path], decoder: str) -> None:
    for path in targets:
        if path.suffix == ".avq":
            save_channels([channel], path, codec)
            continue
        stream = codec.decoder_stream(channel.speaker, decoder)
        with create_audio(path, codec.sample_rate, 1) as writer:
            for packet in channel.packets:
                writer.write(stream.push(packet)[:, None])
            writer.write(stream.finish(channel.n_samples)[:, None])


Folder = Annotated[Path, Option("-o", "--output", metavar="DIR", help="Folder for the samples.")]
Label = Annotated[int | None, Option(min=0, metavar="N", help="Number of the class, for models with classes.")]


@app.command()
def image(
    output: Folder,
    samples: options.Samples = 4,
    label: Label = None,
    temperature: options.Temperature = None,
    top_k: options.TopK = 0,
    top_p: options.TopP = None,
    seed: options.Seed = 0,
    model: options.Model = None,
    format: Annotated[str, Option(metavar="png|avq|both", help="What to write.")] = "png",
    force: options.Force = False,
) -> None:
    """Sample images from the priors of an image model."""
    targets = plan_samples(output, samples, (".png", ".avq"), format, force)
    import torch

    from audiovq.prior.image import ImagePrior
    from audiovq.prior.networks import SamplingConfig

    torch.set_num_threads(1)
    source, sampling = ImagePrior.from_pretrained(model), SamplingConfig().override(temperature, top_k, top_p)
    check_folder(output)
    with Display(len(targets)) as display:
        for i, paths in enumerate(targets):
            with display.file(f"image {i + 1}") as tell:
                encoded = source.sample(1, label, sampling, seed, i, tell)
            codes = tuple(c.transpose(0, 1).numpy() for c in encoded.codes)
            for path in paths:
                if path.suffix == ".avq":
                    save_codes(path, source.codec, MEDIA_IMAGE, codes, encoded.size)
                else:
                    write_image(path, frames_of(source.codec, codes, encoded.size, 1)[0])
    height, width = encoded.size
    print(f"{output}: {samples} image{'s' * (samples > 1)} of {width}x{height}", file=sys.stderr)


FRAME_RATE = Fraction(35, 2)
"""Of the bundled world: 35 tics a second, two for each frame."""

Actions = Annotated[
    str,
    Option(
        metavar="ACTION*N,...",
        help="Buttons and for how many frames: turn_left*10,move_forward*20; default: random actions.",
        show_default=False,
    ),
]
Mode = Annotated[
    str,
    Option(
        metavar="mean|likeliest|sample",
        help="mean: least error, blurred where uncertain; likeliest: the likeliest codes; sample: random codes.",
    ),
]
Prompt = Annotated[
    str | None, Option(metavar="FILE", help="A video to continue; default: start frames bundled with the model.")
]


@app.command()
def video(
    output: Folder,
    seconds: Annotated[float, Option(metavar="S", help="Length of the prediction in seconds.")] = 10.0,
    samples: options.Samples = 4,
    prompt: Prompt = None,
    actions: Actions = "",
    mode: Mode = "mean",
    temperature: Annotated[float, Option(min=0, metavar="T", help="With --mode sample; below 1: less varied.")] = 1.0,
    seed: options.Seed = 0,
    model: options.Model = None,
    format: Annotated[str, Option(metavar="gif|avq|both", help="What to write.")] = "gif",
    force: options.Force = False,
) -> None:
    """Predict video from its last frames and actions."""
    targets = plan_samples(output, samples, (".gif", ".avq"), format, force)
    options.check_seconds(seconds)
    if prompt is not None:
        check_input(prompt)
    n_frames = max(round(seconds * FRAME_RATE), 1)
    plans = [parse_actions(actions, n_frames, seed, i) for i in range(samples)]
    import torch

    from audiovq.hub import model_folder
    from audiovq.video import VideoModel, roll_out

    torch.set_num_threads(1)
    source = VideoModel.from_pretrained(model)
    check_folder(output)
    with Display(len(targets)) as display:
        for i, paths in enumerate(targets):
            known, held, size = _beginning(source, model_folder(model, "video"), prompt, seed, i)
            plan = torch.cat([held, torch.from_numpy(plans[i]).float()[None]], 1)
            own_seed = int(np.random.default_rng([seed, i]).integers(1 << 63))  # another for every pair of numbers
            settings: dict[str, Any] = {"temperature": temperature, "seed": own_seed}
            with display.file(f"video {i + 1}") as tell:
                predicted = roll_out(source.dynamics, known, plan, mode, **settings, progress=tell)
            codes = torch.cat([known, predicted.codes], 2)
            latents = torch.cat([source.dynamics.embed(known), predicted.latents], 2)
            _write_video(source, codes, latents, size, paths)
    made = f"{samples} video{'s' * (samples > 1)} of {n_frames} new frames"
    print(f"{output}: {made}, {size[1]}x{size[0]}", file=sys.stderr)


def _write_video(source: VideoModel, codes: Tensor, latents: Tensor, size: tuple[int, int], paths: list[Path]) -> None:
    from audiovq.image.codec import to_bytes

    for path in paths:
        if path.suffix == ".avq":
            rate = (FRAME_RATE.numerator, FRAME_RATE.denominator)
            save_codes(path, source.frames, MEDIA_VIDEO, (codes[0].numpy(),), size, rate)
            continue
        with create_video(path, FRAME_RATE, size) as append:
            for frame in to_bytes(source.decode(latents, size)[0].transpose(0, 1)):
                append(frame)


def _beginning(
    source: VideoModel, folder: Path, prompt: str | None, seed: int, i: int
) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """Codes of the known frames (1, 1, n_context, h, w), actions (1, n_context - 1, A), the size in pixels.

    The seed decides the order of the bundled beginnings.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    n_context = source.dynamics.n_context
    if prompt is None:
        try:
            starts = load(checked((folder / "starts.safetensors").read_bytes()))
            known, held, size = (starts[name] for name in ("codes", "actions", "size"))
        except FileNotFoundError:
            raise AudioVQError(f"the model in {folder} has no beginnings: give a video with --prompt") from None
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise AudioVQError(f"{folder / 'starts.safetensors'} is damaged ({error}): install it again") from error
        k, (height, width) = np.random.default_rng(seed).permutation(len(known))[i % len(known)], size.tolist()
        return known[k].long()[None, None], held[k].float()[None], (height, width)
    from audiovq.data.episodes import to_video

    with open_video(prompt) as (_, frames):
        last = list(frames)[-n_context:]
    if len(last) < n_context:
        raise AudioVQError(f"{prompt}: has {len(last)} frames; the model continues from {n_context}")
    codes = source.encode(to_video(np.stack(last))[None])
    return codes, torch.zeros(1, n_context - 1, max(source.dynamics.n_actions, 1)), last[0].shape[:2]


def parse_actions(text: str, n_frames: int, seed: int, i: int = 0) -> np.ndarray:
    """``turn_left*10,move_forward+turn_right*5`` -> (n_frames, n_buttons) uint8, the last held on.

    Without text a random player chooses, by the seed and the number ``i`` of the sample.
    """
    from audiovq.data.episodes import BUTTONS

    rows: list[np.ndarray] = []
    if not text:
        random = np.random.default_rng([seed, i])
        moves = np.array([[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 1, 0, 0]], np.uint8)
        while len(rows) < n_frames:
            rows += [moves[random.integers(len(moves))]] * int(random.integers(6, 17))
        return np.stack(rows[:n_frames])
    for part in text.split(","):
        names, _, times = part.strip().partition("*")
        row = np.zeros(len(BUTTONS), np.uint8)
        for name in names.split("+"):
            if name not in (*BUTTONS, "wait"):
                raise AudioVQError(f"--actions: no button {name!r}: there are {', '.join(BUTTONS)}, and wait")
            if name != "wait":
                row[BUTTONS.index(name)] = 1
        if times and not (times.isdigit() and int(times)):
            raise AudioVQError(f"--actions: {times!r} is no number of frames")
        rows += [row] * int(times or 1)
    rows += [rows[-1]] * (n_frames - len(rows))
    return np.stack(rows[:n_frames])
