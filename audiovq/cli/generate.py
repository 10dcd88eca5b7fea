"""``audiovq generate``: speech out of nothing, or out of a beginning."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from audiovq.errors import AudioVQError
from audiovq.interfaces import Packet
from audiovq.streams import check_input, errors_about

if TYPE_CHECKING:
    import numpy as np

    from audiovq.prior.speech import SpeechPrior
    from audiovq.speech.codec import EncodedSpeech, SpeechCodec

FORMATS = {"wav": (".wav",), "avq": (".avq",), "both": (".wav", ".avq")}


def generate(
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Folder for the samples.")],
    seconds: Annotated[float, typer.Option(help="Length of each sample; with --prompt, of what follows it.")] = 10.0,
    n: Annotated[int, typer.Option("-n", min=1, help="How many samples.")] = 4,
    speaker: Annotated[
        str,
        typer.Option(
            metavar="NAME|FILE|random",
            help="Who speaks: a bundled voice (audiovq speakers), a recording or .avq file of it, or a new voice for "
            "each sample. Without it: the prompt's voice, else random.",
            show_default=False,
        ),
    ] = "",
    prompt: Annotated[
        str | None, typer.Option(metavar="FILE", help="A recording or .avq file to go on from.", show_default=False)
    ] = None,
    language: Annotated[
        str | None, typer.Option(help="ISO 639 code, of those the prior has learned.", show_default=False)
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(min=0, help="Under 1: likelier, less varied; default: the prior's own.", show_default=False),
    ] = None,
    top_k: Annotated[int, typer.Option(min=0, help="Only the k likeliest codes each time; 0: all.")] = 0,
    top_p: Annotated[
        float | None,
        typer.Option(
            help="Only the likeliest codes that together reach p, up to 1; default: the prior's own.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same bytes, with either decoder.")] = 0,
    codebooks: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="The first N codebooks; default: the prior's own.", show_default=False),
    ] = None,
    decoder: Annotated[
        str, typer.Option(metavar="parallel|wavenet", help="Which of the model's decoders.")
    ] = "parallel",
    model: Annotated[
        str | None, typer.Option(metavar="NAME|DIR", help="The codec; default: the bundled one.", show_default=False)
    ] = None,
    prior: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="The prior; default: the folder prior of the codec.", show_default=False),
    ] = None,
    format: Annotated[
        str, typer.Option(metavar="wav|avq|both", help="What to write; for wav read png or gif with other media.")
    ] = "wav",
    media: Annotated[
        str, typer.Option(metavar="speech|image|video", help="What to draw; video goes on from --prompt, a clip.")
    ] = "speech",
    label: Annotated[int | None, typer.Option(min=0, help="Image: the number of a class.", show_default=False)] = None,
    actions: Annotated[
        str,
        typer.Option(help="Video: buttons, as turn_left*10,move_forward*20; without it random.", show_default=False),
    ] = "",
    mode: Annotated[str, typer.Option(metavar="mean|likeliest|sample", help="Video: how to predict.")] = "mean",
    force: Annotated[bool, typer.Option("-f", "--force", help="Overwrite files that exist.")] = False,
) -> None:
    """Draw speech from the prior over a codec's codes: no text goes in, and no sense comes out. Or pictures; or clips.

    Writes DIR/sample-01.wav, .png or .gif, and so on. Sample i depends on the seed and i alone, not on how many are
    drawn.
    """
    from audiovq.cli import checks, generate_visual

    if media not in generate_visual.MEDIA:
        raise AudioVQError(f"--media is one of {', '.join(generate_visual.MEDIA)}, not {media!r}")
    if label is not None and media != "image":
        raise AudioVQError("--label is for --media image")
    if actions and media != "video":
        raise AudioVQError("--actions is for --media video")
    targets = _targets(output, n, format, force, generate_visual.FORMATS.get(media, ".wav"))
    if not seconds > 0 or seconds > 86400:
        raise AudioVQError(f"--seconds is above 0 and at most a day, not {seconds:g}")
    if prompt is not None:
        check_input(prompt)
    if media != "speech":
        import torch

        torch.set_num_threads(1)
    if media == "image":
        from audiovq.prior.sampling import SamplingConfig

        return generate_visual.generate_images(
            targets, seed, SamplingConfig().override(temperature, top_k, top_p), label, model
        )
    if media == "video":
        told = (seed, mode, 1.0 if temperature is None else temperature, actions, prompt, model)
        return generate_visual.generate_videos(targets, seconds, *told)
    checks.check_decoder(decoder, [model])
    if speaker not in ("", "random"):
        checks.check_voice(speaker, checks.facts(model))

    import torch

    from audiovq.cli.interrupts import clean_up_when_terminated
    from audiovq.cli.progress import Display
    from audiovq.prior.speech import BATCH, SpeechPrior

    torch.set_num_threads(1)
    source = SpeechPrior.from_pretrained(model, prior)
    source.codec.seed = seed
    if codebooks is not None:
        source.codec.check_n_codebooks(codebooks)
    start = time.perf_counter()
    beginning = None if prompt is None else _read(source.codec, prompt, codebooks or source.prior.drawn_codebooks)
    voice = _voice(source.codec, speaker)
    if beginning is not None and codebooks is not None and codebooks > beginning.codes.shape[1]:
        raise AudioVQError(f"{prompt} has {beginning.codes.shape[1]} codebooks, {codebooks} were asked for")
    with errors_about(str(output), "written"):
        output.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=output).close()  # before minutes of drawing
    total = 0.0
    with clean_up_when_terminated(), Display(-(-n // BATCH)) as display:
        for first in range(0, n, BATCH):
            size = min(BATCH, n - first)
            who = _random_voices(source, size, seed, first) if speaker == "random" else voice
            with display.file(f"samples {first + 1} to {first + size}" if size > 1 else f"sample {first + 1}") as tell:
                encoded = source.generate(
                    seconds,
                    size,
                    who,
                    language,
                    beginning,
                    temperature,
                    top_k,
                    top_p,
                    seed,
                    codebooks,
                    first,
                    lambda done, frames: tell(done, 2 * frames),
                )
                for i in range(size):
                    _write(source.codec, _item(encoded, i), targets[first + i], decoder)
                    tell(size + i + 1, 2 * size)
            total += float(encoded.n_samples.sum()) / source.codec.sample_rate
    elapsed = time.perf_counter() - start
    shown = min(str(output), os.path.relpath(output), key=len)
    plural = "s" if n > 1 else ""
    print(
        f"{n} sample{plural} in {shown}: {total:.2f} s of audio, {total / elapsed:.1f} times real time", file=sys.stderr
    )


def _targets(folder: Path, n: int, format: str, force: bool, plain: str = ".wav") -> list[list[Path]]:
    """The files of each sample.

    Raises:
        AudioVQError: where something is in the way.
    """
    format = "wav" if format == plain[1:] else format
    if format not in FORMATS:
        raise AudioVQError(f"--format is {', '.join(FORMATS)}, not {format!r}")
    if folder.exists() and not folder.is_dir():
        raise AudioVQError(f"{folder} is a file; samples need a folder")
    digits = max(2, len(str(n)))
    targets = [
        [folder / f"sample-{i:0{digits}d}{suffix.replace('.wav', plain)}" for suffix in FORMATS[format]]
        for i in range(1, n + 1)
    ]
    for path in (path for paths in targets for path in paths):
        if path.is_dir():
            raise AudioVQError(f"{path}: is a folder")
        if path.exists() and not force:
            raise AudioVQError(f"{path} exists; -f overwrites it")
    return targets


def _read(codec: SpeechCodec, path: str, n_codebooks: int) -> EncodedSpeech:
    """One item of coded speech, from a recording (channels mixed) or an .avq file (its first channel, as it is)."""
    import numpy as np
    import torch

    from audiovq.bitstream.convert import is_avq
    from audiovq.bitstream.speech_file import model_blocks
    from audiovq.speech.waveform import open_audio

    if is_avq(path):
        return _item(codec.load(path), 0)
    with errors_about(path), open_audio(path) as audio:
        blocks = [block for block in model_blocks(audio, codec, mono=True) if block is not None]
        samples = np.concatenate(blocks)[:, 0]
        return codec.encode([torch.from_numpy(samples)], n_codebooks=n_codebooks)


def _item(encoded: EncodedSpeech, i: int) -> EncodedSpeech:
    from audiovq.speech.codec import EncodedSpeech

    return EncodedSpeech(encoded.codes[i : i + 1], encoded.speaker[i : i + 1], encoded.n_samples[i : i + 1])


def _voice(codec: SpeechCodec, speaker: str) -> np.ndarray | None:
    """The vector of a named or recorded voice; None where each sample gets its own, or the prompt's."""
    if speaker in ("", "random"):
        return None
    from audiovq.bitstream.targets import target_voice

    found = target_voice(codec, [speaker])
    vector = found.vector()
    for line in found.warnings():
        print(f"audiovq: {found.name}: warning: {line}", file=sys.stderr)
    return vector


def _random_voices(source: SpeechPrior, n: int, seed: int, first: int) -> np.ndarray:
    """(n, S), where the prompt's voice is not wanted."""
    import numpy as np

    return np.stack([source.random_voice(seed, first + i) for i in range(n)])


def _write(codec: SpeechCodec, encoded: EncodedSpeech, targets: list[Path], decoder: str) -> None:
    from audiovq.speech.waveform import create_audio

    for path in targets:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".avq":
            codec.save(encoded, path)
            continue
        stream = codec.decoder_stream(encoded.speaker[0].numpy(), decoder)
        codes, size = encoded.codes[0].numpy(), codec.packet_frames
        with create_audio(path, codec.sample_rate, 1) as writer:
            for start in range(0, codes.shape[1], size):
                writer.write(stream.push(Packet(codes[:, start : start + size]))[:, None])
            writer.write(stream.finish(int(encoded.n_samples[0]))[:, None])
