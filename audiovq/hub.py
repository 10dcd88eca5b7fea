"""Models on disk: find, load, save, hash and describe any bundled or local model.

A model is a folder: ``config.json`` holds a constructor's arguments and a checksum, ``model.safetensors`` the tensors.
"""

from __future__ import annotations

import hashlib
import json
import math
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from audiovq.errors import AudioVQError, reason_of
from audiovq.interfaces import PITCH_AND_LEVEL_KBPS
from audiovq.io import cache_dir, checked, read_json
from audiovq.tensor_files import TRAINING_BUFFER, write_weights

Media = Literal["speech", "image", "video"]

#: Folder of the models that come with the package.
BUNDLED = Path(__file__).resolve().parent / "pretrained"
#: Default model of each medium.
DEFAULTS: dict[Media, str] = {"speech": "speech", "image": "photo", "video": "doom"}
#: Folder of a WaveNet decoder in a speech model's folder.
WAVENET = "wavenet"
#: Describes the networks for ONNX Runtime in a speech model's folder.
ONNX_DESCRIPTION = "onnx.json"

T = TypeVar("T")
_SUBFOLDERS: dict[Media, str] = {"speech": "", "image": "images", "video": "videos"}
#: Parts of a model that have a folder of weights each. The baseline of video models, ``blind``, is optional.
_PARTS: dict[Media, tuple[str, ...]] = {"speech": ("",), "image": ("",), "video": ("frames", "dynamics")}
#: Files of such a folder.
_FILES = ("config.json", "model.safetensors")


# -- finding ------------------------------------------------------------------------------------------------------


def bundled_folder(media: Media) -> Path:
    """The folder that holds all bundled models of a medium."""
    return BUNDLED / _SUBFOLDERS[media]


def bundled_models(media: Media = "speech") -> list[str]:
    """Names of the bundled models of a medium."""
    return sorted(path.name for path in bundled_folder(media).glob("*") if _is_model(path, media))


def model_folder(name_or_dir: str | Path | None = None, media: Media = "speech") -> Path:
    """The folder of a bundled model (None: the default one), of a model on disk, or of a training run.

    Runs are searched in the cache: ``runs/NAME`` (its best weights) or ``runs/NAME/latest``.

    Raises:
        AudioVQError: when there is none.
    """
    name = str(DEFAULTS[media] if name_or_dir is None else name_or_dir)
    cache = cache_dir()
    for folder in (bundled_folder(media) / name, Path(name), cache / name, cache / name / "best"):
        if _is_model(folder, media):
            return folder
    known = ", ".join(bundled_models(media)) or "none"
    kind = "model" if media == "speech" else f"{media} model"
    need = " and ".join(_PARTS[media] if len(_PARTS[media]) > 1 else _FILES)
    raise AudioVQError(
        f"no {kind} {name!r}: give a folder with {need}, a run (runs/NAME), or a bundled model ({known})"
    )


def weights_folder(name_or_dir: str | Path) -> Path:
    """As `model_folder`, for weights to start a training from, which need no configuration; folders come before names.

    Raises:
        AudioVQError: when there are none.
    """
    name, cache = str(name_or_dir), cache_dir()
    for folder in (Path(name), cache / name, cache / name / "best", BUNDLED / name):
        if (folder / "model.safetensors").is_file():
            return folder
    raise AudioVQError(f"no weights in {name}: give a folder, a run (runs/NAME/latest) or a bundled model")


def onnx_folder(name_or_dir: str | Path | None = None) -> Path:
    """The folder of a speech model that has networks for ONNX Runtime.

    Raises:
        AudioVQError: when there is no such model, or it was not exported.
    """
    folder = model_folder(name_or_dir)
    if not has_onnx(folder):
        raise AudioVQError(
            f"the model in {folder} has no ONNX networks: {export_command(folder)} writes them, "
            "and needs pip install 'audiovq[onnx]'"
        )
    return folder


def export_command(folder: Path) -> str:
    """The command that writes networks for ONNX Runtime into a model's folder."""
    name = shlex.quote(str(folder))
    return f"audiovq export onnx {name} --model {name} -f"


def _is_model(folder: Path, media: Media) -> bool:
    files = [folder / part / name for part in _PARTS[media] for name in _FILES]
    return all(path.is_file() for path in files)


def has_onnx(folder: Path) -> bool:
    """Whether a model's folder holds networks for ONNX Runtime."""
    return (folder / ONNX_DESCRIPTION).is_file()


def has_wavenet(folder: Path | None) -> bool:
    """Whether a model's folder holds a WaveNet decoder."""
    return folder is not None and (folder / WAVENET / "config.json").is_file()


def missing_decoder(model: str, decoder: str, decoders: Sequence[str]) -> AudioVQError:
    """The error for a decoder that a model does not have: what it has, and how it gets a WaveNet."""
    text = f"model {model} has no decoder {decoder!r}; it has: {', '.join(decoders)}"
    if decoder == WAVENET:
        text += "; train one by audiovq train experiment=wavenet task.codec=MODEL (docs/wavenet.md)"
    return AudioVQError(text)


def read_config(folder: str | Path) -> dict[str, Any]:
    """The configuration of the model in a folder.

    Raises:
        AudioVQError: when it is missing or damaged.
    """
    try:
        return read_json(Path(folder) / "config.json")
    except (OSError, ValueError, RecursionError) as error:
        raise AudioVQError(f"the model in {folder} cannot be loaded: its config.json is damaged ({error})") from error


def read_speech_config(folder: str | Path) -> dict[str, Any]:
    """As `read_config`, of a speech model.

    Raises:
        AudioVQError: also for a model of version 0.1.
    """
    config = read_config(folder)
    if "speaker_encoder" in config and "pitch" not in config:
        raise AudioVQError(f"the model in {folder} was made by audiovq 0.1 and has no pitch tracker: use audiovq 0.1")
    return config


# -- loading and saving -------------------------------------------------------------------------------------------


def load_weights(kind: Callable[..., Any], folder: str | Path) -> Any:
    """``kind(**config)`` with its weights, in evaluation mode.

    Raises:
        AudioVQError: when the files are missing, damaged, or do not fit each other.
    """
    from safetensors.torch import load

    from audiovq.devices import restore

    folder = Path(folder)
    try:
        model = kind(**read_json(folder / "config.json"))
        data = checked((folder / "model.safetensors").read_bytes())
        missing, unknown = model.load_state_dict(restore(load(data)), strict=False)
        wrong = [name for name in missing if not TRAINING_BUFFER.search(name)] + list(unknown)
        if wrong:
            raise ValueError(f"the configuration does not fit the weights ({wrong[0]})")
    except Exception as error:
        raise AudioVQError(f"the model in {folder} cannot be loaded: {reason_of(error)}") from error
    return model.eval()


def load_codec(kind: Callable[..., Any], folder: str | Path) -> Any:
    """As `load_weights`, for a codec: with its ``model_hash`` and its ``folder``."""
    codec = load_weights(kind, folder)
    codec.model_hash, codec.folder = codes_hash(folder), Path(folder)
    return codec


def save_weights(model: Any, folder: str | Path, dtype: Any = None) -> None:
    """Write ``model.config`` and its tensors; floating-point ones are stored as ``dtype``, float16 by default.

    With ``torch.int8`` parameters of two and more dimensions are stored in 8 bits with a scale for each of the first,
    all else as float16.
    """
    import torch

    from audiovq.devices import SCALE, round_rows

    tensors = model.state_dict()
    if dtype == torch.int8:
        dtype = None
        for name, weight in model.named_parameters():
            if weight.dim() > 1:
                rows, tensors[name + SCALE] = round_rows(weight.flatten(1))
                tensors[name] = rows.view_as(weight)
    write_weights(tensors, model.config, folder, dtype)


def stored_tensors(path: Path) -> tuple[dict[str, Any], int]:
    """What a safetensors file says of its tensors (``dtype``, ``shape``, ``data_offsets``), and where the data begins.

    Raises:
        ValueError: for a file that is damaged or cut off.
    """
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > path.stat().st_size:
            raise ValueError(f"{path.name} is damaged")
        entries = json.loads(file.read(size))
    entries.pop("__metadata__", None)
    if 8 + size + max((entry["data_offsets"][1] for entry in entries.values()), default=0) != path.stat().st_size:
        raise ValueError(f"{path.name} is cut off")
    return entries, 8 + size


def n_weights(folder: str | Path) -> int:
    """The number of weights in a model's folder, scales of those in 8 bits left out."""
    entries, _ = stored_tensors(Path(folder) / "model.safetensors")
    return sum(math.prod(entry["shape"]) for name, entry in entries.items() if not name.endswith(".row_scale"))


# -- hashing ------------------------------------------------------------------------------------------------------


def read_companion(path: Path, form: str, model_hash: bytes, build: Callable[[dict[str, Any]], T]) -> T | None:
    """What ``build`` makes of the arrays in a file beside a model's weights; None without one, or for other weights.

    Args:
        path, form: of a file that `audiovq.tensor_files.write_companion` wrote, and its kind and version.
        model_hash: of the codes that it has to be made for.
        build: may raise anything for arrays that do not fit each other.

    Raises:
        AudioVQError: for a damaged file, and one of another release.
    """
    from safetensors.numpy import load

    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        tensors = load(checked(data))
        metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
        if metadata["format"] != f"audiovq {form}":
            raise AudioVQError(f"{path} is of another release ({metadata['format']}); update audiovq")
        made_for, found = bytes.fromhex(metadata["model_hash"]), build(tensors)
    except AudioVQError:
        raise
    except Exception as error:
        raise AudioVQError(f"{path} is damaged ({reason_of(error)}): install the model again") from error
    return found if made_for == model_hash else None


def codes_hash(folder: str | Path) -> bytes:
    """Identifier of a model's codes, stored in files: 4 bytes of a SHA-256 over all that decides what codes mean.

    Speech: the encoder's settings, the packets' length, and the quantizer without the bits of codes (see
    `audiovq.quantize.Codebook`): encoders, pitch tracker and decoder may be trained further, and another decoder be
    added, and files that were written before can be read. Images and video: levels or strides, and every tensor but
    the decoder's.

    Raises:
        AudioVQError: for damaged files.
    """
    folder, config = Path(folder), read_config(folder)
    try:
        return _codes_hash(folder, config)
    except Exception as error:
        raise AudioVQError(f"the model in {folder} cannot be loaded: its files are damaged ({error})") from error


def _codes_hash(folder: Path, config: dict[str, Any]) -> bytes:
    if "time_stride" in config:
        strides = json.dumps([config["stride"], config["time_stride"]]).encode()
        return hash_tensors(folder, b"clip" + strides, _is_visual_code)
    if "levels" in config:
        levels = json.dumps([config["levels"], config["tile"]], sort_keys=True).encode()
        return hash_tensors(folder, levels, _is_visual_code)
    left_out = ("decoder.", "encoder.", "pitch.", "speaker_encoder.")
    start = json.dumps([config["encoder"], config["packet_frames"]], sort_keys=True).encode()
    return hash_tensors(
        folder, start, lambda name: not name.startswith(left_out) and not name.endswith(".codebook.bits")
    )


def _is_visual_code(name: str) -> bool:
    return not name.startswith(("decoder.", "likelihood."))


def decoder_hash(folder: str | Path) -> bytes:
    """Identifier of a model's parallel decoder: 4 bytes of a SHA-256 over its tensors."""
    return hash_tensors(folder, b"", lambda name: name.startswith("decoder."))


def hash_tensors(folder: str | Path, start: bytes, included: Callable[[str], bool]) -> bytes:
    """First 4 bytes of a SHA-256 over ``start`` and the tensors in a folder whose names are ``included``, as stored."""
    path, digest = Path(folder) / "model.safetensors", hashlib.sha256(start)
    entries, first = stored_tensors(path)
    with open(path, "rb") as file:
        for name in sorted(filter(included, entries)):
            entry = entries[name]
            begin, end = entry["data_offsets"]
            digest.update(f"{name} {entry['dtype']} {entry['shape']}".encode())
            file.seek(first + begin)
            digest.update(file.read(end - begin))
    return digest.digest()[:4]


def bundled_hashes(*media: Media) -> dict[bytes, Path]:
    """Folders of the bundled codecs by their `codes_hash`; of video models it is the folder of the frame codec."""
    folders = [bundled_folder(one) / name / _PARTS[one][0] for one in media for name in bundled_models(one)]
    return {codes_hash(folder): folder for folder in folders}


def folder_by_hash(model_hash: bytes, known: dict[bytes, Path]) -> Path:
    """The bundled model that writes this hash into its files; ``known`` is from `bundled_hashes`.

    Raises:
        AudioVQError: when none does.
    """
    if model_hash not in known:
        names = ", ".join(f"{folder.name} {found.hex()}" for found, folder in known.items()) or "none is bundled"
        raise AudioVQError(
            f"was written by model {model_hash.hex()}, which is not bundled with audiovq ({names}); "
            "name its folder with --model"
        )
    return known[model_hash]


# -- describing ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ModelFacts:
    """A speech model's configuration, read in a millisecond: for help texts and checks before the weights are loaded.

    Attributes:
        folder: the model's folder.
        name, sample_rate, hop_length, n_codebooks, codebook_size, default_n_codebooks: as of `SpeechCodec`.
        packet_frames: frames of its packets, the most that a file can ask for.
        decoders: names of its decoders.
    """

    folder: Path
    name: str
    sample_rate: int
    hop_length: int
    n_codebooks: int
    codebook_size: int
    default_n_codebooks: int
    packet_frames: int
    decoders: tuple[str, ...]

    @property
    def model_hash(self) -> bytes:
        """As `SpeechCodec.model_hash`: reads the weights."""
        return codes_hash(self.folder)

    @property
    def bitrates(self) -> list[float]:
        """Nominal kb/s by the number of codebooks, ascending."""
        bits = (self.codebook_size - 1).bit_length()
        per_codebook = bits * self.sample_rate / self.hop_length / 1000
        return [PITCH_AND_LEVEL_KBPS + k * per_codebook for k in range(1, self.n_codebooks + 1)]


def model_facts(name_or_dir: str | Path | None = None) -> ModelFacts:
    """The facts of a bundled speech model by name (None: the default one) or of a folder with a speech model.

    Raises:
        AudioVQError: when there is no such model, or its configuration is damaged.
    """
    folder = model_folder(name_or_dir)
    config = read_speech_config(folder)
    try:
        encoder, quantizer = config["encoder"]["detail"], config["quantizer"]
        return ModelFacts(
            folder=folder,
            name=config.get("name", "unnamed"),
            sample_rate=config.get("sample_rate", 16000),
            hop_length=encoder["filterbank"]["stride"] * math.prod(encoder["strides"]),
            n_codebooks=quantizer["n_codebooks"],
            codebook_size=quantizer["codebook_size"],
            default_n_codebooks=config.get("default_n_codebooks", 4),
            packet_frames=config.get("packet_frames", 200),
            decoders=("parallel",) + ("wavenet",) * has_wavenet(folder),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise AudioVQError(f"the model in {folder} cannot be loaded: its config.json is damaged ({error})") from error
