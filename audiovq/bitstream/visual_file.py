"""Images and videos to .avq files and back, and the information in such a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from itertools import islice
from math import prod
from typing import Any

import numpy as np

from audiovq.bitstream.container import VERSION, ContainerReader, ContainerWriter, DamagedError, Packet
from audiovq.bitstream.visual_layout import MEDIA_IMAGE, MEDIA_NAMES, MEDIA_VIDEO, CodeLevel, VisualHeader
from audiovq.errors import AudioVQError
from audiovq.interfaces import VisualCodec
from audiovq.io import Place, describe, errors_about, open_input, open_output, size_of
from audiovq.media.images import (
    check_image_target,
    check_video_target,
    create_video,
    open_video,
    read_image,
    write_image,
)

PACKET_FRAMES = 16
"""Frames per packet of a video; packets are coded independently."""


@dataclass
class VisualReport:
    """Summary of one file."""

    size: tuple[int, int]  # height and width in pixels
    n_frames: int  # 1 for an image
    n_bytes: int  # of the .avq file
    remarks: list[str] = field(default_factory=list)  # on the source, for its user


@dataclass
class VisualInfo:
    """Information about a file; ``frames``, ``seconds`` and ``bits_per_pixel`` are None when its end is missing.

    ``levels`` lists, coarse to fine, [codebooks, bits of a code, frames of a code, rows, columns].
    """

    version: int
    media: str
    model_hash: str
    height: int
    width: int
    frames_per_second: float | None
    packet_frames: int
    levels: list[list[int]]
    packets: int
    frames: int | None
    seconds: float | None
    bytes: int
    bits_per_pixel: float | None
    damage: str | None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def encode_image(source: Place, target: Place, codec: VisualCodec) -> VisualReport:
    """Encode an image file.

    Raises:
        AudioVQError: for an image that cannot be read, and a target that cannot be written; no target is left then.
    """
    pixels = read_image(source)
    with errors_about(describe(source)):
        codes = codec.encode_frames(pixels[None])
        n_bytes = save_codes(target, codec, MEDIA_IMAGE, codes, pixels.shape[:2])
    return VisualReport(pixels.shape[:2], 1, n_bytes)


def encode_video(source: Place, target: Place, codec: VisualCodec) -> VisualReport:
    """Encode a video file, packet by packet in constant memory.

    Raises:
        AudioVQError: for a video that cannot be read, whose frames differ in size, or that has none, and a target that
            cannot be written; no target is left then.
    """
    with ExitStack() as stack, errors_about(describe(source)):
        rate, frames = stack.enter_context(open_video(source))
        numbers, n_frames = rate.limit_denominator(1000), 0
        writer: Any = None
        header: Any = None
        while batch := list(islice(frames, PACKET_FRAMES)):
            if {frame.shape[:2] for frame in batch} != {batch[0].shape[:2] if header is None else header.size}:
                raise AudioVQError("has frames of different sizes")
            codes = codec.encode_frames(np.stack(batch))
            if header is None:
                at = (numbers.numerator, numbers.denominator)
                header = header_for(codec, MEDIA_VIDEO, codes, batch[0].shape[:2], at)
                writer = ContainerWriter(stack.enter_context(open_output(target)), header.to_container())
            writer.write_packet(*header.pack(codes, len(batch)))
            n_frames += len(batch)
        if header is None:
            raise AudioVQError("has no frames")
        writer.finish(n_frames)
    return VisualReport(header.size, n_frames, writer.n_bytes)


def save_codes(
    target: Place,
    codec: VisualCodec,
    media: int,
    codes: tuple[np.ndarray, ...],
    size: tuple[int, int],
    rate: tuple[int, int] = (0, 1),
) -> int:
    """Write the codes of a whole image or video, one (K, t, h, w) for each level -> bytes of the file.

    Raises:
        AudioVQError: when the target cannot be written.
    """
    n_times, step = codes[0].shape[1], codec.time_stride
    header = header_for(codec, media, codes, size, rate)
    with open_output(target) as stream:
        writer = ContainerWriter(stream, header.to_container())
        for first in range(0, n_times, header.packet_frames // step):
            part = tuple(c[:, first : first + header.packet_frames // step] for c in codes)
            writer.write_packet(*header.pack(part, part[0].shape[1] * step))
        writer.finish(n_times * step)
    return writer.n_bytes


def header_for(
    codec: VisualCodec,
    media: int,
    codes: tuple[np.ndarray, ...],
    size: tuple[int, ...],
    rate: tuple[int, int] = (0, 1),
) -> VisualHeader:
    """The header for codes of the first frames, (K, t, h, w) for each level, and frames of ``size`` pixels.

    Raises:
        AudioVQError: for an image and a codec for video clips.
    """
    if media == MEDIA_IMAGE and codec.time_stride > 1:
        raise AudioVQError(f"model {codec.name} is for video clips; name one for images with --model")
    levels = tuple(
        CodeLevel(k, max((entries - 1).bit_length(), 1), codec.time_stride, *part.shape[2:])
        for (k, entries, _), part in zip(codec.levels, codes, strict=True)
    )
    packet = PACKET_FRAMES if media == MEDIA_VIDEO else 1
    return VisualHeader(codec.model_hash, media, (size[0], size[1]), packet, rate, levels)


def frames_of(codec: VisualCodec, codes: tuple[np.ndarray, ...], size: tuple[int, int], n_frames: int) -> np.ndarray:
    """Codes of each level, (K, t, h, w) -> frames (T, H, W, 3) uint8.

    Raises:
        AudioVQError: for codes that do not fit the model.
    """
    for (_, entries, _), part in zip(codec.levels, codes, strict=True):
        if part.max() >= entries:
            raise DamagedError("it contains codes outside the model's codebook")
    return codec.decode_frames(codes, size, n_frames)


class VisualReader:
    """Reads an image or a video: the header at once, packets on demand.

    Raises:
        AudioVQError: for another file, and while packets are read for damage.
    """

    def __init__(self, stream: Any) -> None:
        self.container = ContainerReader(stream)
        self.header = VisualHeader.from_container(self.container.header)
        self.n_packets = self.n_frames = 0

    def packets(self) -> Iterator[tuple[tuple[np.ndarray, ...], int]]:
        """The codes and the number of frames of each packet; after the last one the whole file has been checked."""
        last_was_short = False
        for record in self.container.records(self.header.valid_length):
            if isinstance(record, Packet):
                if last_was_short or (self.header.media == MEDIA_IMAGE and self.n_packets):
                    raise DamagedError("it has packets after its last one", record.index)
                codes, n_frames = self.header.unpack(record.payload, record.short)
                self.n_packets, self.n_frames = self.n_packets + 1, self.n_frames + n_frames
                last_was_short = record.short
                yield codes, n_frames
            elif record.extent != self.n_frames or not self.n_frames:  # type: ignore[union-attr]
                raise DamagedError("its end states another number of frames than it has")

    def expect(self, codec: VisualCodec) -> None:
        """Check that a model wrote this file. Raises `AudioVQError` when another one did."""
        header = self.header
        if codec.model_hash != header.model_hash:
            raise AudioVQError(
                f"was written by model {header.model_hash.hex()}, not by {codec.name} ({codec.model_hash.hex()}); "
                "name the model it came from with --model"
            )
        grids = codec.grid(header.size)
        expected = [(k, codec.time_stride, *grid) for (k, _, _), grid in zip(codec.levels, grids, strict=True)]
        if [(x.n_codebooks, x.frames, x.height, x.width) for x in header.levels] != expected:
            raise DamagedError("its header does not fit its model")


def decode_visual(source: Place, target: Place, codec: VisualCodec | Callable[[bytes], VisualCodec]) -> VisualReport:
    """Decode an .avq file to an image or a video, in the format of the target's ending.

    Args:
        source: a path, ``-`` for standard input, or a binary file object.
        target: a path, ``-`` for standard output (PNG or GIF), or a binary file object.
        codec: the model, or a function from the file's model hash to the model.

    Raises:
        AudioVQError: for a damaged file, a file of another model, and a target that cannot be written; then no target
            is left.
    """
    with ExitStack() as stack, errors_about(describe(source)):
        stream = stack.enter_context(open_input(source))
        reader = VisualReader(stream)
        header = reader.header
        # A wrong ending is reported before the model is loaded.
        (check_image_target if header.media == MEDIA_IMAGE else check_video_target)(target)
        model = codec if isinstance(codec, VisualCodec) else codec(header.model_hash)
        reader.expect(model)
        if header.media == MEDIA_IMAGE:
            frames = [frames_of(model, codes, header.size, n_frames)[0] for codes, n_frames in reader.packets()]
            write_image(target, frames[0])
        else:
            with create_video(target, Fraction(*header.rate), header.size) as append:
                for codes, n_frames in reader.packets():
                    for frame in frames_of(model, codes, header.size, n_frames):
                        append(frame)
        return VisualReport(header.size, reader.n_frames, size_of(stream) or reader.container.n_bytes)


def inspect_visual(source: Place) -> VisualInfo:
    """Read a whole file and verify its checksums.

    Raises:
        AudioVQError: for a file whose header cannot be read; other damage is in the result.
    """
    damage = None
    with errors_about(describe(source)), open_input(source) as stream:
        reader = VisualReader(stream)
        try:
            for _ in reader.packets():
                pass
        except DamagedError as error:
            damage = str(error)
        n_bytes = size_of(stream) or reader.container.n_bytes
    header, whole = reader.header, damage is None
    rate = Fraction(*header.rate) if header.media == MEDIA_VIDEO else None
    pixels = prod(header.size) * reader.n_frames
    return VisualInfo(
        version=VERSION,
        media=MEDIA_NAMES[header.media],
        model_hash=header.model_hash.hex(),
        height=header.size[0],
        width=header.size[1],
        frames_per_second=float(rate) if rate else None,
        packet_frames=header.packet_frames,
        levels=[[x.n_codebooks, x.bits, x.frames, x.height, x.width] for x in header.levels],
        packets=reader.n_packets,
        frames=reader.n_frames if whole else None,
        seconds=float(reader.n_frames / rate) if whole and rate else None,
        bytes=n_bytes,
        bits_per_pixel=8 * n_bytes / pixels if whole else None,
        damage=damage,
    )
