"""``audiovq models``: the models that came with the package."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer


def models(as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """List the models that came with the package, with what they offer."""
    from audiovq.bitstream.entropy import coder_for
    from audiovq.cli.loading import Models
    from audiovq.speech.checkpoint import BUNDLED, DEFAULT_MODEL, bundled_models
    from audiovq.speech.voices import read_voices

    shelf = Models()
    rows: list[dict[str, Any]] = []
    for name in bundled_models():
        codec = shelf.load(name)
        rows.append(
            {
                "name": name,
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
                "parameters": sum(p.numel() for p in codec.parameters()),
                "folder": str(BUNDLED / name),
            }
        )
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    if not rows:
        print("no models came with this installation; --model takes a folder with config.json and model.safetensors")
    for row in rows:
        rates = ", ".join(f"{rate:g}" for rate in row["bitrates"])
        parts = [f"decoders {' and '.join(row['decoders'])}", f"{row['voices']} voices"]
        parts += ["entropy coding"] * row["entropy_coding"] + ["a prior for generate"] * row["prior"]
        print(
            f"{row['name']}{' (default)' if row['default'] else ''}: hash {row['hash']}, {row['sample_rate']} Hz, "
            f"{rates} kb/s (default {row['default_bitrate']:g}), {row['parameters'] / 1e6:.1f} M parameters\n"
            f"  {', '.join(parts)}\n"
            f"  {row['folder']}"
        )
