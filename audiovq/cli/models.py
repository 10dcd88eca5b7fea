"""``audiovq models``: the models that came with the package."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer


def models(as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """List the models that came with the package, with what they offer."""
    rows = [*_speech_models(), *_picture_models(), *_video_models()]
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    if not rows:
        print("no models came with this installation; --model takes a folder with config.json and model.safetensors")
    for row in rows:
        print("\n  ".join(_told(row)))


def _speech_models() -> list[dict[str, Any]]:
    from audiovq.bitstream.entropy import coder_for
    from audiovq.cli.loading import Models
    from audiovq.speech.checkpoint import BUNDLED, DEFAULT_MODEL, bundled_models
    from audiovq.speech.voices import read_voices

    shelf = Models()
    rows = []
    for name in bundled_models():
        codec = shelf.load(name)
        rows.append(
            {
                "name": name,
                "media": "speech",
                "default": name == DEFAULT_MODEL,
                "hash": codec.model_hash.hex(),
                "sample_rate": codec.sample_rate,
                "frame_rate": codec.frame_rate,
                "bitrates": codec.bitrates,
                "default_bitrate": codec.bitrates[codec.default_n_codebooks - 1],
                "decoders": codec.decoders,
                "entropy_coding": coder_for(codec) is not None,
                "prior": (BUNDLED / name / "prior" / "config.json").is_file(),
                "voices": len(read_voices(codec)),
                "parameters": _weights(codec),
                "folder": str(BUNDLED / name),
            }
        )
    return rows


def _picture_models() -> list[dict[str, Any]]:
    from audiovq.image.checkpoint import DEFAULT_MODEL, IMAGES, bundled_image_models

    rows = []
    for name in bundled_image_models():
        from audiovq.image import ImageCodec
        from audiovq.prior.image import load_priors

        codec = ImageCodec.from_pretrained(name)
        rows.append(
            {
                "name": name,
                "media": "image",
                "default": name == DEFAULT_MODEL,
                "hash": codec.model_hash.hex(),
                "bits_per_pixel": codec.bits((codec.stride, codec.stride)) / codec.stride**2,
                "prior": bool(load_priors(codec)),
                "parameters": _weights(codec),
                "folder": str(IMAGES / name),
            }
        )
    return rows


def _video_models() -> list[dict[str, Any]]:
    from audiovq.video.checkpoint import DEFAULT_MODEL, VIDEOS, bundled_video_models

    rows = []
    for name in bundled_video_models():
        from audiovq.video import VideoModel

        model = VideoModel.from_pretrained(name)
        rows.append(
            {
                "name": name,
                "media": "video",
                "default": name == DEFAULT_MODEL,
                "hash": model.frames.model_hash.hex(),
                "bits_per_pixel": model.frames.bits((model.frames.stride,) * 2) / model.frames.stride**2,
                "context_frames": model.dynamics.n_context,
                "parameters": _weights(model),
                "folder": str(VIDEOS / name),
            }
        )
    return rows


def _weights(module: Any) -> int:
    return sum(p.numel() for p in module.parameters())


def _told(row: dict[str, Any]) -> list[str]:
    """A model in a few lines."""
    size = f"{row['parameters'] / 1e6:.1f} M parameters"
    head = f"{row['name']} ({row['media']}{', default' if row['default'] else ''}): hash {row['hash']}, "
    if row["media"] == "speech":
        rates = ", ".join(f"{rate:g}" for rate in row["bitrates"])
        head += f"{row['sample_rate']} Hz, {rates} kb/s (default {row['default_bitrate']:g}), {size}"
        offers = [f"decoders {' and '.join(row['decoders'])}", f"{row['voices']} voices"]
        offers += ["entropy coding"] * row["entropy_coding"] + ["a prior for generate"] * row["prior"]
    elif row["media"] == "image":
        head += f"{row['bits_per_pixel']:g} bits a pixel, {size}"
        offers = ["a prior for generate --media image"] * row["prior"]
    else:
        head += f"{row['bits_per_pixel']:g} bits a pixel of a frame, {size}"
        offers = [f"generate --media video, from {row['context_frames']} frames"]
    return [head, *([", ".join(offers)] if offers else []), row["folder"]]
