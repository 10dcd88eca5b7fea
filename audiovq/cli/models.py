"""``audiovq models``, ``speakers`` and ``export``: bundled models, their speakers, and models for other runtimes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from audiovq.cli.options import Force, Model
from audiovq.errors import AudioVQError

if TYPE_CHECKING:
    from audiovq.hub import Media


def models(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the bundled models and their capabilities."""
    from importlib.util import find_spec

    rows = _speech_models()
    if find_spec("torch") is not None:
        rows += [*_picture_models(), *_video_models()]
    else:
        print("audiovq: models for images and videos need PyTorch: pip install 'audiovq[torch]'", file=sys.stderr)
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    if not rows:
        print("this installation has no bundled models; --model takes a folder with config.json and model.safetensors")
    for row in rows:
        print("\n  ".join(_told(row)))


def _speech_models() -> list[dict[str, Any]]:
    from audiovq.bitstream.entropy import coder_for
    from audiovq.cli.loading import Models
    from audiovq.conversion.target import read_voices
    from audiovq.hub import BUNDLED, bundled_models, n_weights

    shelf = Models(engine="auto")
    rows = []
    for name in bundled_models():
        codec = shelf.load(name)
        rows.append(
            _row(name, "speech", codec, n_weights(BUNDLED / name))
            | {
                "sample_rate": codec.sample_rate,
                "frame_rate": codec.frame_rate,
                "bitrates": codec.bitrates,
                "default_bitrate": codec.bitrates[codec.default_n_codebooks - 1],
                "decoders": codec.decoders,
                "entropy_coding": coder_for(codec) is not None,
                "prior": (BUNDLED / name / "prior" / "config.json").is_file(),
                "speakers": len(read_voices(codec)),
            }
        )
    return rows


def _picture_models() -> list[dict[str, Any]]:
    from audiovq.hub import bundled_models
    from audiovq.image import ImageCodec
    from audiovq.prior.image import load_priors

    rows = []
    for name in bundled_models("image"):
        codec = ImageCodec.from_pretrained(name)
        rows.append(
            _row(name, "image", codec, sum(p.numel() for p in codec.parameters()))
            | {
                "bits_per_pixel": codec.bits((codec.stride, codec.stride)) / codec.stride**2,
                "prior": bool(load_priors(codec)),
            }
        )
    return rows


def _video_models() -> list[dict[str, Any]]:
    from audiovq.hub import bundled_models
    from audiovq.video import VideoModel

    rows = []
    for name in bundled_models("video"):
        model = VideoModel.from_pretrained(name)
        rows.append(
            _row(name, "video", model.frames, sum(p.numel() for p in model.parameters()))
            | {
                "bits_per_pixel": model.frames.bits((model.frames.stride,) * 2) / model.frames.stride**2,
                "context_frames": model.dynamics.n_context,
            }
        )
    return rows


def _row(name: str, media: Media, codec: Any, n_parameters: int) -> dict[str, Any]:
    """The columns of every model; ``codec`` is the part that its files are named by."""
    from audiovq.hub import DEFAULTS, bundled_folder

    return {
        "name": name,
        "media": media,
        "default": name == DEFAULTS[media],
        "hash": codec.model_hash.hex(),
        "parameters": n_parameters,
        "folder": str(bundled_folder(media) / name),
    }


def _told(row: dict[str, Any]) -> list[str]:
    """A model in a few lines."""
    size = f"{row['parameters'] / 1e6:.1f} M parameters"
    head = f"{row['name']} ({row['media']}{', default' if row['default'] else ''}): hash {row['hash']}, "
    if row["media"] == "speech":
        rates = ", ".join(f"{rate:g}" for rate in row["bitrates"])
        head += f"{row['sample_rate']} Hz, {rates} kb/s (default {row['default_bitrate']:g}), {size}"
        offers = [
            f"decoder{'s' * (len(row['decoders']) > 1)} {' and '.join(row['decoders'])}",
            f"{row['speakers']} speakers",
        ]
        offers += ["entropy coding"] * row["entropy_coding"] + ["a prior for generate"] * row["prior"]
    elif row["media"] == "image":
        head += f"{row['bits_per_pixel']:g} bits a pixel, {size}"
        offers = ["a prior for generate image"] * row["prior"]
    else:
        head += f"{row['bits_per_pixel']:g} bits a pixel of a frame, {size}"
        offers = [f"generate video, from {row['context_frames']} frames"]
    return [head, *([", ".join(offers)] if offers else []), row["folder"]]


def speakers(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with the speaker vectors.")] = False,
    model: Model = None,
) -> None:
    """List the speakers bundled with a model, for `audiovq convert --to NAME`.

    Columns: name, languages, sex, median pitch, seconds of speech that the speaker vector is the mean of, licence.
    """
    from dataclasses import asdict

    from audiovq.cli.jobs import print_rows
    from audiovq.cli.loading import Models
    from audiovq.conversion.target import read_voices

    codec = Models(engine="auto").load(model)
    voices = list(read_voices(codec).values())
    if as_json:
        print(json.dumps([asdict(voice) for voice in voices], indent=2, ensure_ascii=False))
        return
    if not voices:
        print(f"model {codec.name} has no bundled speakers; audiovq convert --to takes a recording of any speaker")
        return
    rows = []
    for voice in voices:
        pitch = "" if voice.pitch is None else f"{voice.pitch:.0f} Hz"
        rows.append(
            [voice.name, " ".join(voice.languages), voice.sex or "", pitch, f"{voice.seconds:.0f} s", voice.licence]
        )
    print_rows(rows, right=(3, 4))


app = typer.Typer(rich_markup_mode=None)


@app.callback()
def export() -> None:
    """Export models for other runtimes; see `audiovq export RUNTIME --help` for the options."""


@app.command(short_help="Export a speech model for ONNX Runtime.")
def onnx(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder for the export.", show_default=False)],
    model: Model = None,
    force: Force = False,
) -> None:
    """Export a speech model for ONNX Runtime: encoder, pitch tracker, speaker encoder and decoder as .onnx files.

    They read their weights from model.safetensors beside them, which is copied; onnx.json describes inputs, outputs and
    sizes. DIR may be the model's folder. `audiovq encode --model DIR`, decode and convert then use ONNX Runtime and
    need no PyTorch. The export itself does: pip install 'audiovq[onnx]'. The bundled model is exported already.
    """
    from audiovq.hub import ONNX_DESCRIPTION, model_folder

    if (folder / ONNX_DESCRIPTION).exists() and not force:
        raise AudioVQError(f"{folder} exists; -f overwrites it")
    source = model_folder(model)

    from audiovq.codec.codec import SpeechCodec
    from audiovq.codec.onnx_export import export_onnx

    export_onnx(SpeechCodec.from_pretrained(source), folder, source)
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{folder}: {len(list(folder.iterdir()))} files, {size / 1e6:.1f} MB", file=sys.stderr)
