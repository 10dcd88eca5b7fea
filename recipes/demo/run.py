"""Encode a sample at four bit rates, decode it, and plot the spectrograms.

python recipes/demo/run.py [--plot FILE]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import soundfile as sf

from audiovq import OnnxCodec
from audiovq.bitstream import decode_file, encode_file

SOURCE = Path(__file__).with_name("speech.flac")
OUT = Path("demo_output")


def spectrograms(paths: dict[str, Path], target: Path) -> None:
    """Spectrograms one above the other, on one scale."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 1.6 * len(paths)), layout="constrained")
    axes = figure.subplots(len(paths), sharex=True)
    for axis, (title, path) in zip(axes, paths.items(), strict=True):
        samples, rate = sf.read(path, dtype="float32")
        frames = np.lib.stride_tricks.sliding_window_view(np.pad(samples, 256), 512)[::128] * np.hanning(512)
        level = 20 * np.log10(np.abs(np.fft.rfft(frames)).T + 1e-3)
        extent = (0, len(samples) / rate, 0, rate / 2000)
        axis.imshow(level, origin="lower", aspect="auto", extent=extent, vmin=-50, vmax=35, cmap="magma")
        axis.set_title(title, loc="left", fontsize="medium")
        axis.set_ylabel("kHz")
    axes[-1].set_xlabel("s")
    figure.savefig(target, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plot", type=Path, default=OUT / "spectrograms.png", help="file for the spectrograms")
    plot = parser.parse_args().plot
    OUT.mkdir(exist_ok=True)
    codec = OnnxCodec.from_pretrained()
    seconds = sf.info(SOURCE).duration
    original = OUT / "original.wav"
    sf.write(original, *sf.read(SOURCE))
    spectra = {f"original, {seconds:.1f} s, {sf.info(SOURCE).samplerate} Hz": original}
    # Loading the networks is left out of the times.
    encode_file(SOURCE, OUT / "warm_up.avq", codec, 1)
    decode_file(OUT / "warm_up.avq", OUT / "warm_up.wav", codec)
    for name in ("warm_up.avq", "warm_up.wav"):
        (OUT / name).unlink()
    for n_codebooks in (1, 2, 4, 8):
        bitrate = f"{codec.bitrates[n_codebooks - 1]:g}"
        packed, decoded = OUT / f"speech_{bitrate}kbps.avq", OUT / f"speech_{bitrate}kbps.wav"
        start = time.perf_counter()
        encode_file(SOURCE, packed, codec, n_codebooks)
        encoded_in = time.perf_counter() - start
        start = time.perf_counter()
        decode_file(packed, decoded, codec)
        decoded_in = time.perf_counter() - start
        size = packed.stat().st_size
        print(
            f"{bitrate:>4} kb/s: {size:5d} bytes ({8 * size / seconds / 1000:.2f} kb/s with header), encoded "
            f"{seconds / encoded_in:.0f} and decoded {seconds / decoded_in:.0f} times faster than real time"
        )
        spectra[f"{bitrate} kb/s"] = decoded
    spectrograms(spectra, plot)
    print(f"Recordings: {original} and {OUT}/speech_*kbps.wav. Spectrograms: {plot}")


if __name__ == "__main__":
    main()
