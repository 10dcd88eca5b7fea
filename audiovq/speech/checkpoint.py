"""Models on disk: ``config.json`` holds exactly the constructor's arguments, ``model.safetensors`` the weights."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from audiovq.errors import AudioVQError
from audiovq.files import cache_dir
from audiovq.weights import BUNDLED, load_weights, save_weights, write_weights

DEFAULT_MODEL = "speech"
#: The bundled model whose codes say least of who speaks; where it is missing, the default one converts.
CONVERSION_MODEL = "conversion"
#: Folder of the WaveNet decoder inside a model's.
WAVENET = "wavenet"


def bundled_models() -> list[str]:
    """Names of the models that came with the package."""
    return sorted(path.parent.name for path in BUNDLED.glob("*/config.json"))


def conversion_model() -> str | None:
    """Name of the bundled model that converts voices unless another one is named; None: the default one."""
    return CONVERSION_MODEL if CONVERSION_MODEL in bundled_models() else None


def model_folder(name_or_dir: str | Path | None) -> Path:
    """The folder of a bundled model or of a model on disk.

    A training run's is found as ``runs/NAME`` (its best weights) or ``runs/NAME/latest`` wherever the cache is.

    Raises:
        AudioVQError: when neither exists.
    """
    if name_or_dir is None:
        name_or_dir = DEFAULT_MODEL
    name, cache = str(name_or_dir), cache_dir()
    for folder in (BUNDLED / name, Path(name), cache / name, cache / name / "best"):
        if (folder / "config.json").is_file() and (folder / "model.safetensors").is_file():
            return folder
    known = ", ".join(bundled_models()) or "none"
    raise AudioVQError(
        f"no model {name!r}: give a folder with config.json, a run (runs/NAME), or a bundled model ({known})"
    )


def codes_hash(folder: Path) -> bytes:
    """Which model wrote a file: first four bytes of a SHA-256 over all that decides what its codes mean.

    That is every tensor but the decoder's and the bits of codes (see `audiovq.quantize.Codebook`), the encoder's
    settings and the packets' length: a decoder may be trained further, or another one be added, or other codes be
    preferred, and files that were written before can be read by it. Of a model with coded pitch it is the quantizer
    alone: encoder and pitch tracker may be trained further, too.
    """
    from safetensors import deserialize

    weights, config = (folder / "model.safetensors").read_bytes(), json.loads((folder / "config.json").read_text())
    digest = hashlib.sha256(json.dumps([config["encoder"], config["packet_frames"]], sort_keys=True).encode())
    left_out = ("decoder.", "encoder.", "pitch.", "speaker_encoder.") if "pitch" in config else ("decoder.",)
    for name, tensor in sorted(deserialize(weights)):
        if not name.startswith(left_out) and not name.endswith(".codebook.bits"):
            digest.update(f"{name} {tensor['dtype']} {tensor['shape']}".encode())
            digest.update(tensor["data"])
    return digest.digest()[:4]


def save_codec(codec, folder: str | Path, dtype: Any = None) -> None:
    """Write the configuration and the weights; floating-point tensors are stored as ``dtype``, float16 by default."""
    save_weights(codec, folder, dtype)


def decoder_hash(folder: str | Path) -> bytes:
    """Identity of a model's parallel decoder (4 bytes): SHA-256 over the names and data of its tensors as stored."""
    from safetensors import deserialize

    digest = hashlib.sha256()
    for name, tensor in sorted(deserialize((Path(folder) / "model.safetensors").read_bytes())):
        if name.startswith("decoder."):
            digest.update(f"{name} {tensor['dtype']} {tensor['shape']}".encode())
            digest.update(tensor["data"])
    return digest.digest()[:4]


def save_wavenet(wavenet, folder: str | Path, made_for: bytes, dtype: Any = None) -> None:
    """Write a `WaveNetDecoder` into a model's folder: ``wavenet/config.json`` and ``wavenet/model.safetensors``.

    ``made_for`` is the `codes_hash` of the model whose codes it reads; `load_wavenet` holds it against the model's. A
    WaveNet that reads the parallel decoder's draft is bound to the one that lies in the folder, too.
    """
    config = {**wavenet.config, "codes_hash": made_for.hex()}
    if wavenet.draft is not None:
        config["decoder_hash"] = decoder_hash(folder).hex()
    write_weights(wavenet.state_dict(), config, Path(folder) / WAVENET, dtype)


def has_wavenet(folder: Path | None) -> bool:
    """Whether a model's folder holds a WaveNet."""
    return folder is not None and (folder / WAVENET / "config.json").is_file()


def load_wavenet(folder: Path, model_hash: bytes):
    """The `WaveNetDecoder` in the folder of the model with this `codes_hash`.

    Raises:
        AudioVQError: when there is none, its files are damaged, or it reads another model's codes.
    """
    from safetensors.torch import load

    from audiovq.speech.wavenet import WaveNetDecoder

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


def codec_class(folder: Path) -> Any:
    """The class of the codec in a folder: with coded pitch and level, or the one of the paper's kind without."""
    config = json.loads((folder / "config.json").read_text())
    if "pitch" in config:
        from audiovq.codec.codec import SpeechCodec as WithPitch

        return WithPitch
    from audiovq.speech.codec import SpeechCodec

    return SpeechCodec


def load_codec(name_or_dir: str | Path | None = None):
    """See `SpeechCodec.from_pretrained`."""
    folder = model_folder(name_or_dir)
    codec = load_weights(codec_class(folder), folder)
    codec.model_hash, codec.folder = codes_hash(folder), folder
    return codec
