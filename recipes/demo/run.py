"""The main job on a bundled recording: code it at every rate, decode it, convert nothing, draw what came out."""

from __future__ import annotations

import time
from pathlib import Path

import soundfile as sf
import torch

from audiovq import SpeechCodec
from audiovq.bitstream import decode_file, encode_file

SOURCE = Path(__file__).with_name("speech.flac")
OUT = Path("demo_output")


def spectrograms(paths: dict[str, Path], target: Path) -> None:
    """One spectrogram above the other, on one scale."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 2.2 * len(paths)), layout="constrained")
    for axis, (title, path) in zip(figure.subplots(len(paths)), paths.items(), strict=True):
        samples, rate = sf.read(path, dtype="float32")
        spectrum = torch.stft(
            torch.from_numpy(samples), 512, 128, window=torch.hann_window(512), return_complex=True
        ).abs()
        extent = (0, len(samples) / rate, 0, rate / 2000)
        level = 20 * torch.log10(spectrum + 1e-3)
        axis.imshow(level.numpy(), origin="lower", aspect="auto", extent=extent, vmin=-50, vmax=35, cmap="magma")
        axis.set(title=title, ylabel="kHz")
    figure.savefig(target, dpi=100)


def main() -> None:
    """Code, decode, compare."""
    torch.set_num_threads(1)
    OUT.mkdir(exist_ok=True)
    codec = SpeechCodec.from_pretrained()
    seconds = sf.info(SOURCE).duration
    original = OUT / "original.wav"
    sf.write(original, *sf.read(SOURCE))
    pictures = {f"original, {seconds:.1f} s, {sf.info(SOURCE).samplerate} Hz": original}
    # The first file of a fresh installation waits for kernels to be compiled, which is nobody's bitrate.
    encode_file(SOURCE, OUT / "warm_up.avq", codec, 1)
    decode_file(OUT / "warm_up.avq", OUT / "warm_up.wav", codec)
    for name in ("warm_up.avq", "warm_up.wav"):
        (OUT / name).unlink()
    for bitrate in (0.5, 1, 2, 4):
        packed, decoded = OUT / f"speech_{bitrate}kbps.avq", OUT / f"speech_{bitrate}kbps.wav"
        start = time.perf_counter()
        encode_file(SOURCE, packed, codec, codec.bitrates.index(bitrate) + 1)
        encoded_in = time.perf_counter() - start
        start = time.perf_counter()
        decode_file(packed, decoded, codec)
        decoded_in = time.perf_counter() - start
        size = packed.stat().st_size
        print(
            f"{bitrate:>4} kb/s: {size:5d} bytes ({8 * size / seconds / 1000:.2f} kb/s with header), encoded "
            f"{seconds / encoded_in:.0f} and decoded {seconds / decoded_in:.0f} times faster than real time"
        )
        pictures[f"{bitrate} kb/s"] = decoded
    spectrograms(pictures, OUT / "spectrograms.png")
    print(f"Listen to {original} and {OUT}/speech_*kbps.wav; look at {OUT / 'spectrograms.png'}.")


if __name__ == "__main__":
    main()
