"""``audiovq generate``: samples from a prior over codes, a sub-command for each medium."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from audiovq.cli import options, visual
from audiovq.cli.loading import check_folder, plan_samples
from audiovq.errors import AudioVQError
from audiovq.interfaces import Packet
from audiovq.io import check_input, errors_about

if TYPE_CHECKING:
    import numpy as np

    from audiovq.codec.codec import SpeechCodec
    from audiovq.interfaces import EncodedSpeech
    from audiovq.prior.speech import SpeechPrior

LONGEST = 86400.0
"""Seconds: a day."""

app = typer.Typer(rich_markup_mode=None)


@app.callback()
def generate() -> None:
    """Sample from the prior over a codec's codes; see `audiovq generate MEDIUM --help` for the options.

    Needs PyTorch: pip install 'audiovq[torch]'. Sample i depends on the seed and i alone, not on the number of samples.
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
    import torch

    from audiovq.prior.speech import SpeechPrior

    torch.set_num_threads(1)
    source = SpeechPrior.from_pretrained(model, prior)
    source.codec.seed = seed
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


def _sample_speech(
    source: SpeechPrior,
    seconds: float,
    speaker: np.ndarray | None,
    random: bool,
    settings: dict[str, Any],
    targets: Sequence[list[Path]],
    decoder: str,
) -> float:
    """Sample and write batch after batch; the seconds of all samples together."""
    import numpy as np

    from audiovq.cli.jobs import Display
    from audiovq.prior.speech import BATCH

    total = 0.0
    with Display(-(-len(targets) // BATCH)) as display:
        for first in range(0, len(targets), BATCH):
            batch = targets[first : first + BATCH]
            size = len(batch)
            if random:  # where the prompt's speaker is not wanted
                speaker = np.stack([source.random_voice(settings["seed"], first + i) for i in range(size)])
            with display.file(f"samples {first + 1} to {first + size}" if size > 1 else f"sample {first + 1}") as tell:
                encoded = source.generate(
                    seconds,
                    size,
                    speaker,
                    first=first,
                    progress=lambda done, frames, tell=tell: tell(done, 2 * frames),  # type: ignore[misc]
                    **settings,
                )
                for i, paths in enumerate(batch):
                    _write_speech(source.codec, encoded.item(i), paths, decoder)
                    tell(size + i + 1, 2 * size)
            total += float(encoded.n_samples.sum()) / source.codec.sample_rate
    return total


def _read_prompt(source: SpeechPrior, path: str, codebooks: int | None) -> EncodedSpeech:
    """One item of coded speech, from a recording (channels mixed) or an .avq file (its first channel, as it is)."""
    import numpy as np
    import torch

    from audiovq.bitstream.speech_file import model_blocks
    from audiovq.conversion.files import is_avq
    from audiovq.media.waveform import open_audio

    codec = source.codec
    if is_avq(path):
        prompt = codec.load(path).item(0)
    else:
        with errors_about(path), open_audio(path) as audio:
            blocks = [block for block in model_blocks(audio, codec, mono=True) if block is not None]
            samples = torch.from_numpy(np.concatenate(blocks)[:, 0])
            prompt = codec.encode([samples], n_codebooks=codebooks or source.prior.drawn_codebooks)
        for remark in audio.remarks:
            print(f"audiovq: {path}: {remark}", file=sys.stderr)
    n_codebooks = prompt.codes.shape[1]
    if codebooks is not None and codebooks > n_codebooks:
        raise AudioVQError(f"{path} has {n_codebooks} codebooks, not {codebooks}")
    return prompt


def _speaker_vector(codec: SpeechCodec, speaker: str) -> np.ndarray:
    """The vector of a bundled or recorded speaker; warnings go to stderr."""
    from audiovq.conversion.target import target_voice

    target = target_voice(codec, [speaker])
    vector = target.vector()
    for line in target.warnings():
        print(f"audiovq: {target.name}: warning: {line}", file=sys.stderr)
    return vector


def _write_speech(codec: SpeechCodec, encoded: EncodedSpeech, targets: Sequence[Path], decoder: str) -> None:
    from audiovq.media.waveform import create_audio

    for path in targets:
        if path.suffix == ".avq":
            codec.save(encoded, path)
            continue
        stream = codec.decoder_stream(encoded.speaker[0].numpy(), decoder)
        with create_audio(path, codec.sample_rate, 1) as writer:
            for packet in _packets(encoded, encoded.packet_frames or codec.packet_frames):
                writer.write(stream.push(packet)[:, None])
            writer.write(stream.finish(int(encoded.n_samples[0]))[:, None])


def _packets(encoded: EncodedSpeech, size: int) -> Iterator[Packet]:
    """The packets of one item of coded speech."""
    codes = encoded.codes[0].numpy()
    for index, start in enumerate(range(0, codes.shape[1], size)):
        stretch = slice(start, start + size)
        yield Packet(codes[:, stretch], encoded.pitch[0, stretch].numpy(), int(encoded.level[0, index]))
