"""Models for the verbs: by name, by folder, or by the hash that a file carries."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from audiovq.errors import AudioVQError

if TYPE_CHECKING:
    from audiovq.bitstream.entropy import EntropyCoder
    from audiovq.codec.codec import SpeechCodec
    from audiovq.codec.onnx_codec import OnnxCodec
    from audiovq.hub import ModelFacts
    from audiovq.interfaces import Codec


TOLERANCE_KBPS = 0.05
"""How far a nominal rate may lie above the bitrate that is asked for."""
ENGINES = ("torch", "onnx", "auto")


class Models:
    """Loads each model once.

    Args:
        threads: that torch may use. One by default: the tensors of a packet are too small to be worth sharing out, and
            a machine's other cores are better used by other files.
        seed: of what decoders draw.
        engine: what computes the networks: torch, onnx, or auto (onnx where the model was exported for it).
        entropy_coding: load the models' entropy coders as well.
        decodes: load what entropy-coded files are read by, too.

    Attributes:
        seconds: spent on loading.

    Raises:
        AudioVQError: for another engine.
    """

    def __init__(
        self,
        threads: int = 1,
        seed: int = 0,
        entropy_coding: bool = False,
        engine: str = "torch",
        decodes: bool = False,
    ) -> None:
        if engine not in ENGINES:
            raise AudioVQError(f"--engine takes {', '.join(ENGINES[:-1])} or {ENGINES[-1]}, not {engine!r}")
        self._engine, self._decodes = engine, decodes
        self._threads, self._seed, self._entropy_coding = threads, seed, entropy_coding
        self._loaded: dict[str | None, Codec] = {}
        self.seconds = 0.0

    def load(self, name_or_dir: str | None) -> Codec:
        """A bundled model by name (None: the default one) or a folder with a model.

        Raises:
            AudioVQError: when there is no such model.
        """
        if name_or_dir not in self._loaded:
            start = time.perf_counter()
            try:
                codec: Codec = (
                    self._load_onnx(name_or_dir) if self._uses_onnx(name_or_dir) else self._load_torch(name_or_dir)
                )
                if self._entropy_coding:
                    from audiovq.bitstream.entropy import coder_for

                    coder = coder_for(codec)
                    if coder is not None and self._decodes:
                        coder.warm_up()
                self._loaded[name_or_dir] = codec
            finally:
                self.seconds += time.perf_counter() - start
        return self._loaded[name_or_dir]

    def _load_torch(self, name_or_dir: str | None) -> SpeechCodec:
        import torch

        from audiovq.codec.codec import SpeechCodec

        torch.set_num_threads(self._threads)
        codec = SpeechCodec.from_pretrained(name_or_dir)
        codec.seed = self._seed
        return codec

    def _load_onnx(self, name_or_dir: str | None) -> OnnxCodec:
        from audiovq.codec.onnx_codec import OnnxCodec

        return OnnxCodec.from_pretrained(name_or_dir, self._threads)

    def _uses_onnx(self, name_or_dir: str | None) -> bool:
        from importlib.util import find_spec

        from audiovq.hub import onnx_folder

        if self._engine != "auto":
            return self._engine == "onnx"
        try:
            onnx_folder(name_or_dir)
        except AudioVQError:
            return False
        return find_spec("onnxruntime") is not None

    def by_hash(self, model_hash: bytes) -> Codec:
        """The bundled model that writes this hash into its files.

        Raises:
            AudioVQError: when none does.
        """
        from audiovq.hub import bundled_hashes, folder_by_hash

        return self.load(folder_by_hash(model_hash, bundled_hashes("speech")).name)


def bundled_coder(model_hash: bytes) -> EntropyCoder | None:
    """The entropy coder of the bundled model with this hash; None when there is none."""
    from audiovq.bitstream.entropy import coder_in
    from audiovq.hub import bundled_hashes

    folder = bundled_hashes("speech").get(model_hash)
    return None if folder is None else coder_in(folder, model_hash)


def bundled_clock(model_hash: bytes) -> tuple[int, int] | None:
    """Sample rate and hop length of the bundled model with this hash; None when there is none."""
    from audiovq.hub import bundled_hashes, model_facts

    folder = bundled_hashes("speech").get(model_hash)
    if folder is None:
        return None
    facts = model_facts(folder.name)
    return facts.sample_rate, facts.hop_length


def codebooks_of(model: ModelFacts, bitrate: float | None, codebooks: int | None) -> int | None:
    """Codebooks as ``--bitrate`` or ``--codebooks`` asks for them; None, the model's default, when neither does.

    Raises:
        AudioVQError: for a bitrate or a number that the model does not offer, and for both at once.
    """
    if codebooks is None:
        return n_codebooks_for(model, bitrate)
    if bitrate is not None:
        raise AudioVQError("--bitrate and --codebooks say the same thing: give one of them")
    if not 1 <= codebooks <= model.n_codebooks:
        raise AudioVQError(f"model {model.name} has 1 to {model.n_codebooks} codebooks, {codebooks} were asked for")
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
        raise AudioVQError(f"model {codec.name} needs {lowest:g} kb/s and more; {bitrate:g} were asked for")
    return fitting[-1]


def packet_frames_for(model: ModelFacts, packet_ms: float | None) -> int | None:
    """Frames of a packet of ``packet_ms`` milliseconds; None, the model's default, for None.

    Raises:
        AudioVQError: for what is not a number of whole frames that the model's packets can have.
    """
    if packet_ms is None:
        return None
    frame_ms = 1000 * model.hop_length / model.sample_rate
    n_frames = round(packet_ms / frame_ms)
    if abs(n_frames * frame_ms - packet_ms) > 1e-6 or not 1 <= n_frames <= model.packet_frames:
        longest = model.packet_frames * frame_ms
        raise AudioVQError(
            f"packets of model {model.name} last {frame_ms:g} to {longest:g} ms in steps of {frame_ms:g}, "
            f"not {packet_ms:g}"
        )
    return n_frames


def report_rate(model: ModelFacts, bitrate: float | None, n_codebooks: int | None) -> None:
    """Say on stderr which rate stands for a bitrate that the model does not offer itself."""
    import sys

    if bitrate is not None and n_codebooks is not None:
        nominal = model.bitrates[n_codebooks - 1]
        if abs(nominal - bitrate) > TOLERANCE_KBPS + 1e-9:
            count = f"{n_codebooks} codebook{'s' * (n_codebooks > 1)}"
            print(f"audiovq: {bitrate:g} kb/s: using {count}, {nominal:g} kb/s nominal", file=sys.stderr)
