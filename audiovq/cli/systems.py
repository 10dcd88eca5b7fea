"""Rows of the reports of ``audiovq evaluate``: the model at several bitrates, and what it is compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from audiovq.codec.codec import SpeechCodec
    from audiovq.conversion.pitch import Pitch
    from audiovq.evaluation.protocols.pairs import Converter


def audiovq_systems(
    codec: SpeechCodec, counts: list[int], bitrates: list[float], decoder: str
) -> tuple[list[Any], dict[str, str]]:
    """The codec with each number of codebooks; 1, 2, 4 ... and all where neither numbers nor bit rates are given.

    Args:
        codec: the model.
        counts, bitrates: numbers of codebooks, or nominal kb/s.
        decoder: another one than the parallel decoder is added to it.

    Returns:
        The systems, and the names of those that are compared, each with that of the parallel decoder's.

    Raises:
        AudioVQError: for numbers or bit rates that the model does not have.
    """
    from audiovq.cli.loading import n_codebooks_for
    from audiovq.evaluation.protocols.codec import AudioVQSystem

    default = sorted({n for n in (1, 2, 4, 8, 16, codec.n_codebooks) if n <= codec.n_codebooks})
    chosen = counts or [cast(int, n_codebooks_for(codec, rate)) for rate in bitrates] or default
    numbers = [codec.check_n_codebooks(n) for n in dict.fromkeys(chosen)]
    systems = [AudioVQSystem(codec, n, name) for n in numbers for name in dict.fromkeys(("parallel", decoder))]
    parallel = {system.n_codebooks: system.name for system in systems if system.decoder == "parallel"}
    return systems, {s.name: parallel[s.n_codebooks] for s in systems if s.decoder != "parallel"}


def converters(
    codec: SpeechCodec, counts: list[int], pitch: Pitch, decoder: str, world: bool, groups: bool
) -> list[Converter]:
    """The rows of a conversion report: bounds, then the model with each number of codebooks."""
    from audiovq.evaluation.protocols import pairs

    rows: list[Converter] = [pairs.Unconverted()] if groups else [pairs.RealSpeech(), pairs.Unconverted()]
    for n in counts:
        rows.append(pairs.Reconstruction(codec, n, decoder, of="truth" if groups else "source"))
        rows.append(pairs.ModelConverter(codec, n, pitch, decoder))
    return [*rows, pairs.WorldConverter()] if world else rows
