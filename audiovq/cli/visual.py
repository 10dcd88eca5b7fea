"""Images and videos for the verbs `encode`, `decode`, `info` and `generate`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from audiovq.cli import options
from audiovq.cli.loading import check_folder, plan_samples
from audiovq.cli.options import CLIPS, PICTURES, known_contents, suffix_of
from audiovq.errors import AudioVQError
from audiovq.io import check_input, checked, describe, shown
from audiovq.media.containers import CONTAINER_SUFFIXES

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from audiovq.bitstream.visual_file import VisualInfo, VisualReport
    from audiovq.cli.jobs import Display, Job
    from audiovq.interfaces import VisualCodec
    from audiovq.video import VideoModel


def encode_visual(inputs: Sequence[str], output: str | None, model: str | None, force: bool, threads: int) -> None:
    """Code pictures and clips; an animated WebP counts as a picture, its first."""
    from audiovq.bitstream.visual_file import encode_image, encode_video
    from audiovq.cli.jobs import plan

    jobs = plan(inputs, output, PICTURES + CLIPS, ".avq")
    codec: list[VisualCodec] = []

    def work(job: Job) -> VisualReport:
        if not codec:
            codec.append(_load(model, threads))
        if suffix_of(job.source) not in CLIPS:
            return encode_image(job.source, job.target, codec[0])
        report = encode_video(job.source, job.target, codec[0])
        if suffix_of(job.source) in CONTAINER_SUFFIXES and "sound" in known_contents(job.source):
            report.remarks.append("warning: its sound track is not encoded; --sound encodes it")
        return report

    _run(jobs, force, work)


def decode_visual(inputs: Sequence[str], output: str | None, model: str | None, force: bool, threads: int) -> None:
    """Decode pictures (.png beside each input) and clips (.gif)."""
    from audiovq.bitstream.container import media_of
    from audiovq.bitstream.visual_file import decode_visual as decode_file
    from audiovq.bitstream.visual_layout import MEDIA_VIDEO
    from audiovq.cli.jobs import plan
    from audiovq.hub import bundled_hashes, folder_by_hash

    jobs = [
        replace(job, target=str(Path(job.target).with_suffix(".gif")))
        if job.target not in (output, "-") and media_of(job.source) == MEDIA_VIDEO
        else job
        for job in plan(inputs, output, [".avq"], ".png")
    ]
    loaded: dict[bytes, VisualCodec] = {}

    def codec(model_hash: bytes) -> VisualCodec:
        if model_hash not in loaded:
            folder = folder_by_hash(model_hash, bundled_hashes("image", "video")) if model is None else model
            loaded[model_hash] = _load(str(folder), threads)
        return loaded[model_hash]

    _run(jobs, force, lambda job: decode_file(job.source, job.target, codec))


def print_info(file: str, as_json: bool) -> None:
    """Print what an .avq file with an image or video holds; then raise `AudioVQError` if it is damaged."""
    import json

    from audiovq.bitstream.visual_file import inspect_visual
    from audiovq.cli.jobs import print_fields
    from audiovq.hub import bundled_hashes

    found = inspect_visual(file)
    model = bundled_hashes("image", "video").get(bytes.fromhex(found.model_hash))
    if as_json:
        print(json.dumps({"file": shown(file), "model": model.name if model else None, **found.to_dict()}, indent=2))
    else:
        print_fields(_rows(file, found, model))
    if found.damage:
        raise AudioVQError(f"{describe(file)}: {found.damage}")


def _rows(file: str, found: VisualInfo, model: Path | None) -> dict[str, str]:
    levels = [
        f"{k} x {bits} bits at {rows}x{columns}" + f" for {frames} frames" * (frames > 1)
        for k, bits, frames, rows, columns in found.levels
    ]
    length = "" if found.frames is None else f", {found.frames} frames"
    if found.frames_per_second:
        length += f", {found.frames_per_second:g} a second"
    rate = "" if found.bits_per_pixel is None else f", {found.bits_per_pixel:.3f} bits a pixel"
    return {
        "file": describe(file),
        "format": f".avq version {found.version}, {found.media}",
        "model": f"{found.model_hash} ({model.name if model else 'not bundled'})",
        "source": f"{found.width}x{found.height} pixels{length if found.media == 'video' else ''}",
        "size": f"{found.bytes} bytes{rate}",
        "codes": "; ".join(levels),
        "packets": str(found.packets),
        "state": "damaged" if found.damage else "intact: all checksums match",
    }


def _load(model: str | None, threads: int) -> VisualCodec:
    import torch

    from audiovq.image import ImageCodec
    from audiovq.video.clip_codec import ClipCodec, is_clip_codec

    torch.set_num_threads(threads)
    if model is not None and is_clip_codec(model):
        return ClipCodec.from_pretrained(model)
    return ImageCodec.from_pretrained(model)


def _run(jobs: list[Job], force: bool, work: Callable[[Job], VisualReport]) -> None:
    """Do all jobs, go on after failures, and say of each what came of it."""
    from audiovq.cli.jobs import work_through

    def done(job: Job, report: VisualReport, display: Display) -> None:
        for remark in report.remarks:
            display.line(f"audiovq: {describe(job.source)}: {remark}")
        height, width = report.size
        bits = 8 * report.n_bytes / (height * width * report.n_frames)
        frames = f", {report.n_frames} frames" * (report.n_frames > 1)
        size = f"{width}x{height}{frames}, {report.n_bytes:,} bytes, {bits:.3f} bits a pixel"
        print(f"{job.target_name}: {size}", file=sys.stderr)

    work_through(jobs, force, lambda job, progress: work(job), done)


FRAME_RATE = Fraction(35, 2)
"""Of the bundled world: 35 tics a second, two for each frame."""
LONGEST = 86400.0

Output = Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Folder for the samples.")]
Actions = Annotated[
    str,
    typer.Option(
        metavar="ACTION*N,...",
        help="Buttons and for how many frames: turn_left*10,move_forward*20; default: random actions.",
        show_default=False,
    ),
]
Mode = Annotated[
    str,
    typer.Option(
        metavar="mean|likeliest|sample",
        help="mean: least error, blurred where uncertain; likeliest: the likeliest codes; sample: random codes.",
    ),
]


def image(
    output: Output,
    samples: options.Samples = 4,
    label: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="Number of the class, for models with classes.", show_default=False),
    ] = None,
    temperature: options.Temperature = None,
    top_k: options.TopK = 0,
    top_p: options.TopP = None,
    seed: options.Seed = 0,
    model: options.Model = None,
    format: Annotated[str, typer.Option(metavar="png|avq|both", help="What to write.")] = "png",
    force: options.Force = False,
) -> None:
    """Sample images from the priors of an image model."""
    targets = plan_samples(output, samples, (".png", ".avq"), format, force)
    import torch

    from audiovq.bitstream.visual_file import frames_of, save_codes
    from audiovq.bitstream.visual_layout import MEDIA_IMAGE
    from audiovq.cli.jobs import Display
    from audiovq.media.images import write_image
    from audiovq.prior.image import ImagePrior
    from audiovq.prior.networks import SamplingConfig

    torch.set_num_threads(1)
    source, sampling = ImagePrior.from_pretrained(model), SamplingConfig().override(temperature, top_k, top_p)
    check_folder(output)
    with Display(len(targets)) as display:
        for i, paths in enumerate(targets):
            with display.file(f"image {i + 1}") as tell:
                encoded = source.sample(1, label, sampling, seed, i, tell)
            codes = tuple(c.transpose(0, 1).numpy() for c in encoded.codes)
            for path in paths:
                if path.suffix == ".avq":
                    save_codes(path, source.codec, MEDIA_IMAGE, codes, encoded.size)
                else:
                    write_image(path, frames_of(source.codec, codes, encoded.size, 1)[0])
    height, width = encoded.size
    print(f"{output}: {samples} image{'s' * (samples > 1)} of {width}x{height}", file=sys.stderr)


def video(
    output: Output,
    seconds: Annotated[float, typer.Option(metavar="S", help="Length of the prediction in seconds.")] = 10.0,
    samples: options.Samples = 4,
    prompt: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="A video to continue; default: start frames bundled with the model.",
            show_default=False,
        ),
    ] = None,
    actions: Actions = "",
    mode: Mode = "mean",
    temperature: Annotated[
        float, typer.Option(min=0, metavar="T", help="With --mode sample; below 1: less varied.")
    ] = 1.0,
    seed: options.Seed = 0,
    model: options.Model = None,
    format: Annotated[str, typer.Option(metavar="gif|avq|both", help="What to write.")] = "gif",
    force: options.Force = False,
) -> None:
    """Predict video from its last frames and actions."""
    targets = plan_samples(output, samples, (".gif", ".avq"), format, force)
    if not 0 < seconds <= LONGEST:
        raise AudioVQError(f"--seconds is above 0 and at most a day, not {seconds:g}")
    if prompt is not None:
        check_input(prompt)
    n_frames = max(round(seconds * FRAME_RATE), 1)
    plans = [parse_actions(actions, n_frames, seed, i) for i in range(samples)]
    import numpy as np
    import torch

    from audiovq.cli.jobs import Display
    from audiovq.hub import model_folder
    from audiovq.video import VideoModel, roll_out

    torch.set_num_threads(1)
    source = VideoModel.from_pretrained(model)
    check_folder(output)
    with Display(len(targets)) as display:
        for i, paths in enumerate(targets):
            known, held, size = _beginning(source, model_folder(model, "video"), prompt, seed, i)
            plan = torch.cat([held, torch.from_numpy(plans[i]).float()[None]], 1)
            own_seed = int(np.random.default_rng([seed, i]).integers(1 << 63))  # another for every pair of numbers
            settings: dict[str, Any] = {"temperature": temperature, "seed": own_seed}
            with display.file(f"video {i + 1}") as tell:
                predicted = roll_out(source.dynamics, known, plan, mode, **settings, progress=tell)
            codes = torch.cat([known, predicted.codes], 2)
            latents = torch.cat([source.dynamics.embed(known), predicted.latents], 2)
            _write_video(source, codes, latents, size, paths)
    made = f"{samples} video{'s' * (samples > 1)} of {n_frames} new frames"
    print(f"{output}: {made}, {size[1]}x{size[0]}", file=sys.stderr)


def _write_video(source: VideoModel, codes: Tensor, latents: Tensor, size: tuple[int, int], paths: list[Path]) -> None:
    from audiovq.bitstream.visual_file import save_codes
    from audiovq.bitstream.visual_layout import MEDIA_VIDEO
    from audiovq.image.codec import to_bytes
    from audiovq.media.images import create_video

    for path in paths:
        if path.suffix == ".avq":
            rate = (FRAME_RATE.numerator, FRAME_RATE.denominator)
            save_codes(path, source.frames, MEDIA_VIDEO, (codes[0].numpy(),), size, rate)
            continue
        with create_video(path, FRAME_RATE, size) as append:
            for frame in to_bytes(source.decode(latents, size)[0].transpose(0, 1)):
                append(frame)


def _beginning(
    source: VideoModel, folder: Path, prompt: str | None, seed: int, i: int
) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """Codes of the known frames (1, 1, n_context, h, w), actions (1, n_context - 1, A), the size in pixels.

    The seed decides the order of the bundled beginnings.
    """
    import numpy as np
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    n_context = source.dynamics.n_context
    if prompt is None:
        try:
            starts = load(checked((folder / "starts.safetensors").read_bytes()))
            known, held, size = (starts[name] for name in ("codes", "actions", "size"))
        except FileNotFoundError:
            raise AudioVQError(f"the model in {folder} has no beginnings: give a video with --prompt") from None
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise AudioVQError(f"{folder / 'starts.safetensors'} is damaged ({error}): install it again") from error
        k, (height, width) = np.random.default_rng(seed).permutation(len(known))[i % len(known)], size.tolist()
        return known[k].long()[None, None], held[k].float()[None], (height, width)
    from audiovq.data.episodes import to_video
    from audiovq.media.images import open_video

    with open_video(prompt) as (_, frames):
        last = list(frames)[-n_context:]
    if len(last) < n_context:
        raise AudioVQError(f"{prompt}: has {len(last)} frames; the model continues from {n_context}")
    codes = source.encode(to_video(np.stack(last))[None])
    return codes, torch.zeros(1, n_context - 1, max(source.dynamics.n_actions, 1)), last[0].shape[:2]


def parse_actions(text: str, n_frames: int, seed: int, i: int = 0) -> np.ndarray:
    """``turn_left*10,move_forward+turn_right*5`` -> (n_frames, n_buttons) uint8, the last held on.

    Without text a random player chooses, by the seed and the number ``i`` of the sample.
    """
    import numpy as np

    from audiovq.data.episodes import BUTTONS

    rows: list[np.ndarray] = []
    if not text:
        random = np.random.default_rng([seed, i])
        moves = np.array([[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 1, 0, 0]], np.uint8)
        while len(rows) < n_frames:
            rows += [moves[random.integers(len(moves))]] * int(random.integers(6, 17))
        return np.stack(rows[:n_frames])
    for part in text.split(","):
        names, _, times = part.strip().partition("*")
        row = np.zeros(len(BUTTONS), np.uint8)
        for name in names.split("+"):
            if name not in (*BUTTONS, "wait"):
                raise AudioVQError(f"--actions: no button {name!r}: there are {', '.join(BUTTONS)}, and wait")
            if name != "wait":
                row[BUTTONS.index(name)] = 1
        if times and not (times.isdigit() and int(times)):
            raise AudioVQError(f"--actions: {times!r} is no number of frames")
        rows += [row] * int(times or 1)
    rows += [rows[-1]] * (n_frames - len(rows))
    return np.stack(rows[:n_frames])
