"""Models by name, folder or hash, and checks before work begins: paths, spelling, rates, samples."""

from __future__ import annotations

import math
import os
import shlex
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from audiovq import hub
from audiovq.bitstream.entropy import EntropyCoder, coder_for, coder_in
from audiovq.conversion.target import TargetVoice, find_voice, target_voice
from audiovq.errors import AudioVQError, need
from audiovq.hub import ModelFacts
from audiovq.hub import model_facts as facts
from audiovq.interfaces import Codec
from audiovq.io import check_input, errors_about, n_cores

if TYPE_CHECKING:
    from audiovq.codec.codec import SpeechCodec
    from audiovq.codec.onnx_codec import OnnxCodec


def check_decoder(decoder: str, models: list[str | None]) -> None:
    """Raise `AudioVQError` unless one of these models has the decoder."""
    found = [facts(model) for model in models]
    if found and all(decoder not in model.decoders for model in found):
        raise hub.missing_decoder(found[0].name, decoder, found[0].decoders)


def check_voice(name: str, model: ModelFacts | None) -> None:
    """Raise `AudioVQError` unless a voice is there: a recording, an .avq file, or the name of a voice of the model."""
    if os.path.isdir(name):
        raise AudioVQError(f"{name}: is a folder; name the target's recordings one by one")
    if os.path.exists(name):
        check_input(name)
    elif os.sep in name or Path(name).suffix:
        raise AudioVQError(f"{name}: no such file")
    elif model is not None:
        find_voice(model, name)


def target_speaker(codec: Codec, names: list[str]) -> TargetVoice:
    """The voice of bundled or recorded speakers; warnings go to stderr.

    Raises:
        AudioVQError: for a voice that is not there, or with too little speech.
    """
    voice = target_voice(codec, names)
    voice.vector()  # what cannot be used is an error, with no warnings before it
    for line in voice.warnings():
        print(f"audiovq: {voice.name}: warning: {line}", file=sys.stderr)
    return voice


def bitrate_help() -> str:
    """The help of ``--bitrate``: which ones the bundled model has."""
    ending = "without it the model's default."
    try:
        model = facts(None)
    except AudioVQError:
        return f"kb/s for each channel; {ending}"
    offers = ", ".join(f"{rate:g}" for rate in model.bitrates)
    default = model.bitrates[model.default_n_codebooks - 1]
    return f"kb/s for each channel. The bundled model has {offers}; {ending[:-1]}, {default:g}."


PROTOCOLS = ("files", "codec", "conversion", "generation", "probe", "image", "video")
MEDIA = ("speech", "image", "video")
_RENAMED = {"--peers": "--baselines", "--peers-only": "--baselines-only", "--picture": "--plot", "--pairs": "--limit"}
_FLAGS = ("--peers", "--peers-only", "--baselines", "--baselines-only", "--align", "--world")


def updated(verb: str, arguments: list[str]) -> list[str]:
    """The arguments of ``audiovq evaluate`` or ``generate`` in today's spelling; a hint on stderr where they change.

    Without any they ask for help.

    Raises:
        AudioVQError: for arguments that were wrong in the old spelling, too.
    """
    if not arguments:
        return ["--help"]
    new = (_evaluate if verb == "evaluate" else _generate)(arguments)
    if new != arguments:
        print(f"audiovq: hint: this is now spelled: audiovq {verb} {shlex.join(new)}", file=sys.stderr)
    return new


def _evaluate(arguments: list[str]) -> list[str]:
    new = [_RENAMED.get(name, name) + sign + value for name, sign, value in (a.partition("=") for a in arguments)]
    if new[0] in (*PROTOCOLS, "-h", "--help"):
        return new
    words = [
        (i, word)
        for i, word in enumerate(new)
        if not word.startswith("-") and not (i and new[i - 1].startswith("-") and new[i - 1] not in _FLAGS)
    ]
    if len(words) > 1:
        return ["files", *new]
    if not words:
        return ["codec", *new]
    place, word = words[0]
    if word not in (*PROTOCOLS, "split"):
        raise AudioVQError(f"evaluate takes two folders, or one of: {', '.join(PROTOCOLS)} (got: {word})")
    return ["codec" if word == "split" else word, *new[:place], *new[place + 1 :]]


def _generate(arguments: list[str]) -> list[str]:
    if arguments[0] in (*MEDIA, "-h", "--help"):
        return arguments
    if not arguments[0].startswith("-"):
        raise AudioVQError(f"generate takes one of: {', '.join(MEDIA)} (got: {arguments[0]})")
    new, medium = [], "speech"
    rest = iter(arguments)
    for argument in rest:
        name, sign, value = argument.partition("=")
        if name == "--media":
            medium = value if sign else next(rest, "")
        else:
            new.append(argument)
    if medium not in MEDIA:
        raise AudioVQError(f"--media is one of {', '.join(MEDIA)}, not {medium!r}")
    return [medium, *new]


def plan_samples(folder: Path, n: int, suffixes: tuple[str, str], format: str, force: bool) -> list[list[Path]]:
    """The files of each of ``n`` samples, in a format that is one of the suffixes without its dot, or "both".

    Raises:
        AudioVQError: for another format, and for files that are in the way.
    """
    formats = {suffix[1:]: (suffix,) for suffix in suffixes} | {"both": suffixes}
    if format not in formats:
        raise AudioVQError(f"--format is {', '.join(formats)}, not {format!r}")
    if not folder.is_dir() and (folder.exists() or folder.suffix.lower() in suffixes):
        raise AudioVQError(f"{folder} is a file; samples need a folder")
    digits = max(2, len(str(n)))
    targets = [[folder / f"sample-{i:0{digits}d}{suffix}" for suffix in formats[format]] for i in range(1, n + 1)]
    for path in (path for paths in targets for path in paths):
        if path.is_dir():
            raise AudioVQError(f"{path}: is a folder")
        if path.exists() and not force:
            raise AudioVQError(f"{path} exists; -f overwrites it")
    return targets


def check_folder(folder: Path) -> None:
    """Make the folder; raise `AudioVQError` where files cannot be written, before minutes of sampling."""
    with errors_about(str(folder), "written"):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()


TOLERANCE_KBPS = 0.05
"""How far a nominal rate may lie above the bitrate that is asked for."""
ENGINES = ("torch", "onnx", "auto")


def engine_for(engine: str, decoder: str) -> str:
    """The engine that is asked for; PyTorch instead of ``auto`` for a decoder that ONNX Runtime does not have.

    Raises:
        AudioVQError: for ONNX Runtime and such a decoder.
    """
    if engine == "onnx" and decoder != "parallel":
        raise AudioVQError(f"the engine onnx has no decoder {decoder!r}: leave out --engine onnx")
    return "torch" if engine == "auto" and decoder != "parallel" else engine


class Models:
    """Loads each model once.

    Args:
        threads: that torch may use. One by default: the tensors of a packet are too small to be worth sharing out, and
            a machine's other cores are better used by other files.
        seed: of what decoders draw.
        engine: what computes the networks: torch, onnx, or auto (onnx where the model was exported for it).
        entropy_coding: load the models' entropy coders as well.
        live: load all that entropy-coded files are read by at once; otherwise it is loaded when a file is long enough.

    Attributes:
        seconds: spent on loading.

    Raises:
        AudioVQError: for another engine.
    """

    def __init__(
        self, threads: int = 1, seed: int = 0, entropy_coding: bool = False, engine: str = "torch", live: bool = False
    ) -> None:
        if engine not in ENGINES:
            raise AudioVQError(f"--engine takes {', '.join(ENGINES[:-1])} or {ENGINES[-1]}, not {engine!r}")
        self._engine, self._live = engine, live
        self._threads, self._seed, self._entropy_coding = threads, seed, entropy_coding
        self._loaded: dict[str | None, Codec] = {}
        self.seconds = 0.0

    def load(self, name_or_dir: str | None) -> Codec:
        """A bundled model by name (None: the default one) or a folder with a model."""
        if name_or_dir not in self._loaded:
            start = time.perf_counter()
            try:
                onnx = self._uses_onnx(name_or_dir)
                codec: Codec = self._load_onnx(name_or_dir) if onnx else self._load_torch(name_or_dir)
                if self._entropy_coding:
                    coder = coder_for(codec)
                    if coder is not None and self._live:
                        coder.load_kernels()
                self._loaded[name_or_dir] = codec
            finally:
                self.seconds += time.perf_counter() - start
        return self._loaded[name_or_dir]

    def _load_torch(self, name_or_dir: str | None) -> SpeechCodec:
        torch = need("torch", "the engine torch", "torch")

        from audiovq.codec.codec import SpeechCodec

        torch.set_num_threads(min(self._threads, n_cores()))
        codec = SpeechCodec.from_pretrained(name_or_dir)
        codec.seed = self._seed
        return codec

    def _load_onnx(self, name_or_dir: str | None) -> OnnxCodec:
        from audiovq.codec.onnx_codec import OnnxCodec

        return OnnxCodec.from_pretrained(name_or_dir, self._threads)

    def _uses_onnx(self, name_or_dir: str | None) -> bool:
        if self._engine != "auto":
            return self._engine == "onnx"
        exported = hub.has_onnx(hub.model_folder(name_or_dir))
        # Without PyTorch the engine onnx says what is missing.
        return find_spec("torch") is None or (exported and find_spec("onnxruntime") is not None)

    def by_hash(self, model_hash: bytes) -> Codec:
        """The bundled model that writes this hash into its files; `AudioVQError` when none does."""
        return self.load(hub.folder_by_hash(model_hash, hub.bundled_hashes("speech")).name)


def bundled_coder(model_hash: bytes) -> EntropyCoder | None:
    """The entropy coder of the bundled model with this hash; None when there is none."""
    folder = hub.bundled_hashes("speech").get(model_hash)
    return None if folder is None else coder_in(folder, model_hash)


def bundled_clock(model_hash: bytes) -> tuple[int, int] | None:
    """Sample rate and hop length of the bundled model with this hash; None when there is none."""
    folder = hub.bundled_hashes("speech").get(model_hash)
    if folder is None:
        return None
    model = hub.model_facts(folder.name)
    return model.sample_rate, model.hop_length


def codebooks_of(model: ModelFacts, bitrate: float | None, codebooks: int | None) -> int | None:
    """Codebooks as ``--bitrate`` or ``--codebooks`` asks for them; None, the model's default, when neither does.

    Raises:
        AudioVQError: for a bitrate or a number that the model does not offer, and for both at once.
    """
    if codebooks is None:
        return n_codebooks_for(model, bitrate)
    if bitrate is not None:
        raise AudioVQError("--bitrate and --codebooks exclude each other")
    if not 1 <= codebooks <= model.n_codebooks:
        raise AudioVQError(f"model {model.name} has 1 to {model.n_codebooks} codebooks, not {codebooks}")
    return codebooks


def n_codebooks_for(codec: Codec | ModelFacts, bitrate: float | None) -> int | None:
    """The most codebooks whose nominal rate is at most ``bitrate`` kb/s a channel (0.05 over is allowed); None, the
    model's default, for None.

    Raises:
        AudioVQError: for a bitrate below the model's lowest.
    """
    if bitrate is None:
        return None
    fitting = [n for n, offered in enumerate(codec.bitrates, 1) if offered <= bitrate + TOLERANCE_KBPS]
    if not fitting:
        lowest = codec.bitrates[0]
        raise AudioVQError(f"model {codec.name} needs {lowest:g} kb/s or more, not {bitrate:g}")
    return fitting[-1]


def packet_frames_for(model: ModelFacts, packet_ms: float | None) -> int | None:
    """Frames of a packet of ``packet_ms`` milliseconds; None, the model's default, for None.

    Raises:
        AudioVQError: for what is not a number of whole frames that the model's packets can have.
    """
    if packet_ms is None:
        return None
    frame_ms = 1000 * model.hop_length / model.sample_rate
    n_frames = round(packet_ms / frame_ms) if math.isfinite(packet_ms) else 0
    if abs(n_frames * frame_ms - packet_ms) > 1e-6 or not 1 <= n_frames <= model.packet_frames:
        longest = model.packet_frames * frame_ms
        raise AudioVQError(
            f"packets of model {model.name} last {frame_ms:g} to {longest:g} ms in steps of {frame_ms:g}, "
            f"not {packet_ms:g}"
        )
    return n_frames


def report_rate(model: ModelFacts, bitrate: float | None, n_codebooks: int | None) -> None:
    """Say on stderr which rate stands for a bitrate that the model does not offer itself."""
    if bitrate is not None and n_codebooks is not None:
        nominal = model.bitrates[n_codebooks - 1]
        if abs(nominal - bitrate) > TOLERANCE_KBPS + 1e-9:
            count = f"{n_codebooks} codebook{'s' * (n_codebooks > 1)}"
            print(f"audiovq: {bitrate:g} kb/s: using {count}, {nominal:g} kb/s nominal", file=sys.stderr)
