"""WaveNet decoders on disk, in the folder ``wavenet`` of the model whose codes they read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from audiovq.errors import AudioVQError
from audiovq.hub import WAVENET, decoder_hash, write_weights
from audiovq.speech.wavenet import WaveNetDecoder


def save_wavenet(wavenet: WaveNetDecoder, folder: str | Path, made_for: bytes, dtype: Any = None) -> None:
    """Write a `WaveNetDecoder` into a model's folder: ``wavenet/config.json`` and ``wavenet/model.safetensors``.

    ``made_for`` is the `codes_hash` of the model whose codes it reads; `load_wavenet` holds it against the model's. A
    WaveNet that reads the parallel decoder's draft is bound to the one that lies in the folder, too.
    """
    config = {**wavenet.config, "codes_hash": made_for.hex()}
    if wavenet.draft is not None:
        config["decoder_hash"] = decoder_hash(folder).hex()
    write_weights(wavenet.state_dict(), config, Path(folder) / WAVENET, dtype)


def load_wavenet(folder: Path, model_hash: bytes) -> WaveNetDecoder:
    """The `WaveNetDecoder` in the folder of the model with this `codes_hash`.

    Raises:
        AudioVQError: when there is none, its files are damaged, or it reads another model's codes.
    """
    from safetensors.torch import load

    own = folder / WAVENET
    try:
        config = json.loads((own / "config.json").read_text())
        made_for = bytes.fromhex(config.pop("codes_hash"))
        drafts_of = config.pop("decoder_hash", None)
        wavenet = WaveNetDecoder(**config)
        wavenet.load_state_dict({k: v.float() for k, v in load((own / "model.safetensors").read_bytes()).items()})
    except Exception as error:
        raise AudioVQError(f"the WaveNet in {own} cannot be loaded: {str(error).splitlines()[0]}") from error
    if made_for != model_hash:
        raise AudioVQError(
            f"the WaveNet in {own} reads the codes of model {made_for.hex()}, not of {model_hash.hex()} beside it: "
            "train it anew (audiovq train experiment=wavenet_debian), or decode with --decoder parallel"
        )
    if drafts_of is not None and drafts_of != decoder_hash(folder).hex():
        raise AudioVQError(
            f"the WaveNet in {own} reads the drafts of another parallel decoder than the one beside it: "
            "train it anew (audiovq train experiment=wavenet_debian), or decode with --decoder parallel"
        )
    return wavenet.eval()
