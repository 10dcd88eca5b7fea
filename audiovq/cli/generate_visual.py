"""``audiovq generate --media image|video``: pictures out of nothing, and what happens next in a world."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from audiovq.errors import AudioVQError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from audiovq.prior.sampling import SamplingConfig
    from audiovq.video import VideoModel

MEDIA = ("speech", "image", "video")
FORMATS = {"image": ".png", "video": ".gif"}
FRAMES_PER_SECOND = 17.5
"""Of the bundled world: 35 tics a second, two for each frame."""


def generate_images(
    targets: list[list[Path]], seed: int, drawing: SamplingConfig, label: int | None, model: str | None
) -> None:
    """Draw a picture for each list of targets; picture i depends on the seed and i alone."""
    from audiovq.bitstream.visual_file import frames_of, save_codes
    from audiovq.bitstream.visual_layout import MEDIA_IMAGE
    from audiovq.cli.interrupts import clean_up_when_terminated
    from audiovq.cli.progress import Display
    from audiovq.image.files import write_image
    from audiovq.prior.image import ImagePrior

    source = ImagePrior.from_pretrained(model)
    with clean_up_when_terminated(), Display(len(targets)) as display:
        for i, paths in enumerate(targets):
            with display.file(f"picture {i + 1}") as tell:
                encoded = source.sample(1, label, drawing, seed, i, tell)
            codes = tuple(c.transpose(0, 1).numpy() for c in encoded.codes)
            for path in paths:
                path.parent.mkdir(parents=True, exist_ok=True)
                if path.suffix == ".avq":
                    save_codes(path, source.codec, MEDIA_IMAGE, codes, encoded.size)
                else:
                    write_image(path, frames_of(source.codec, codes, encoded.size, 1)[0])
    print(f"{len(targets)} pictures of {encoded.size[1]}x{encoded.size[0]}", file=sys.stderr)


def generate_videos(
    targets: list[list[Path]],
    seconds: float,
    seed: int,
    mode: str,
    temperature: float,
    actions: str,
    prompt: str | None,
    model: str | None,
) -> None:
    """Go on from the prompt's last frames, or from beginnings that came with the model; what is known comes first."""
    import torch

    from audiovq.bitstream.visual_file import save_codes, to_bytes
    from audiovq.bitstream.visual_layout import MEDIA_VIDEO
    from audiovq.cli.interrupts import clean_up_when_terminated
    from audiovq.cli.progress import Display
    from audiovq.video import VideoModel, roll_out
    from audiovq.video.files import create_video
    from audiovq.video.rollout import video_folder

    source = VideoModel.from_pretrained(model)
    n_frames = max(round(seconds * FRAMES_PER_SECOND), 1)
    rate = _rate()
    with clean_up_when_terminated(), Display(len(targets)) as display:
        for i, paths in enumerate(targets):
            known, held, size = _beginning(source, video_folder(model), prompt, seed + i)
            plan = torch.from_numpy(parse_actions(actions, n_frames, seed + i)).float()[None]
            told = torch.cat([held, plan], 1)
            with display.file(f"clip {i + 1}") as tell:
                found = roll_out(
                    source.dynamics, known, told, mode, temperature=temperature, seed=seed + i, progress=tell
                )
            codes = torch.cat([known, found.codes], 2)[0].numpy()
            latents = torch.cat([source.dynamics.embed(known), found.latents], 2)
            for path in paths:
                path.parent.mkdir(parents=True, exist_ok=True)
                if path.suffix == ".avq":
                    save_codes(path, source.frames, MEDIA_VIDEO, (codes,), size, (rate.numerator, rate.denominator))
                    continue
                with create_video(path, rate, size) as append:
                    for frame in to_bytes(source.decode(latents, size)[0].transpose(0, 1)):
                        append(frame)
    print(f"{len(targets)} clips of {n_frames} new frames, {size[1]}x{size[0]}", file=sys.stderr)


def _rate():  # type: ignore[no-untyped-def]
    from fractions import Fraction

    return Fraction(FRAMES_PER_SECOND)


def _beginning(
    source: VideoModel, folder: Path, prompt: str | None, number: int
) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """Codes of the known frames (1, 1, n_context, h, w), what was held (1, n_context - 1, A), the size in pixels."""
    import numpy as np
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    n_context = source.dynamics.n_context
    if prompt is None:
        try:
            starts = load((folder / "starts.safetensors").read_bytes())
            known, held, size = (starts[name] for name in ("codes", "actions", "size"))
        except (OSError, SafetensorError, KeyError):
            raise AudioVQError(f"the model in {folder} has no beginnings: give a clip with --prompt") from None
        i, (height, width) = number % len(known), size.tolist()
        return known[i].long()[None, None], held[i].float()[None], (height, width)
    from audiovq.data.episodes import to_video
    from audiovq.video.files import open_video

    with open_video(prompt) as (_, frames):
        last = list(frames)[-n_context:]
    if len(last) < n_context:
        raise AudioVQError(f"{prompt}: has {len(last)} frames; the model goes on from {n_context}")
    codes = source.encode(to_video(np.stack(last))[None])
    return codes, torch.zeros(1, n_context - 1, max(source.dynamics.n_actions, 1)), last[0].shape[:2]


def parse_actions(text: str, n_frames: int, seed: int) -> np.ndarray:
    """``turn_left*10,move_forward+turn_right*5`` -> (n_frames, n_buttons) uint8, the last held on. "": a random player.

    Raises:
        AudioVQError: for a button there is not, or a number that is none.
    """
    import numpy as np

    from audiovq.data.episodes import BUTTONS

    rows: list[np.ndarray] = []
    if not text:
        random = np.random.default_rng(seed)
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
