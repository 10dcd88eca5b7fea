"""``audiovq models``, ``speakers``, ``export``, ``serve`` and ``train``: models, and what is made of them."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from typer import Argument, Option

from audiovq import hub
from audiovq.bitstream.entropy import coder_for
from audiovq.cli.jobs import print_rows
from audiovq.cli.loading import Models
from audiovq.cli.options import Force, Model
from audiovq.conversion.target import read_voices
from audiovq.errors import AudioVQError

if TYPE_CHECKING:
    from audiovq.codec.codec import SpeechCodec


def models(as_json: Annotated[bool, Option("--json", help="Print JSON.")] = False) -> None:
    """List the bundled models and their capabilities."""
    rows = _speech_models()
    if find_spec("torch") is not None:
        rows += _visual_models()
    else:
        print("audiovq: models for images and videos need PyTorch: pip install 'audiovq[torch]'", file=sys.stderr)
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    if not rows:
        print("this installation has no bundled models; --model takes a folder with config.json and model.safetensors")
    for row in rows:
        print("\n  ".join(_lines(row)))


def _speech_models() -> list[dict[str, Any]]:
    shelf = Models(engine="auto")
    rows = []
    for name in hub.bundled_models():
        codec = shelf.load(name)
        facts = {
            "sample_rate": codec.sample_rate,
            "frame_rate": codec.frame_rate,
            "bitrates": codec.bitrates,
            "default_bitrate": codec.bitrates[codec.default_n_codebooks - 1],
            "decoders": codec.decoders,
            "entropy_coding": coder_for(codec) is not None,
            "prior": (hub.BUNDLED / name / "prior" / "config.json").is_file(),
            "speakers": len(read_voices(codec)),
        }
        rows.append(_row(name, "speech", codec, hub.n_weights(hub.BUNDLED / name)) | facts)
    return rows


def _visual_models() -> list[dict[str, Any]]:
    from audiovq.image import ImageCodec
    from audiovq.prior.image import load_priors
    from audiovq.video import VideoModel

    rows = []
    for name in hub.bundled_models("image"):
        codec = ImageCodec.from_pretrained(name)
        row = _row(name, "image", codec, sum(p.numel() for p in codec.parameters()))
        rows.append(row | {"bits_per_pixel": _bits_per_pixel(codec), "prior": bool(load_priors(codec))})
    for name in hub.bundled_models("video"):
        model = VideoModel.from_pretrained(name)
        row = _row(name, "video", model.frames, sum(p.numel() for p in model.parameters()))
        facts = {"bits_per_pixel": _bits_per_pixel(model.frames), "context_frames": model.dynamics.n_context}
        rows.append(row | facts)
    return rows


def _bits_per_pixel(codec: Any) -> float:
    return codec.bits((codec.stride, codec.stride)) / codec.stride**2


def _row(name: str, media: hub.Media, codec: Any, n_parameters: int) -> dict[str, Any]:
    """The columns of every model; ``codec`` is the part that its files are named by."""
    return {
        "name": name,
        "media": media,
        "default": name == hub.DEFAULTS[media],
        "hash": codec.model_hash.hex(),
        "parameters": n_parameters,
        "folder": str(hub.bundled_folder(media) / name),
    }


def _lines(row: dict[str, Any]) -> list[str]:
    """A model in a few lines."""
    size = f"{row['parameters'] / 1e6:.1f} M parameters"
    head = f"{row['name']} ({row['media']}{', default' if row['default'] else ''}): hash {row['hash']}, "
    if row["media"] == "speech":
        rates = ", ".join(f"{rate:g}" for rate in row["bitrates"])
        head += f"{row['sample_rate']} Hz, {rates} kb/s (default {row['default_bitrate']:g}), {size}"
        offers = [
            f"decoder{'s' * (len(row['decoders']) > 1)} {' and '.join(row['decoders'])}",
            f"{row['speakers']} speakers",
        ]
        offers += ["entropy coding"] * row["entropy_coding"] + ["a prior for generate"] * row["prior"]
    elif row["media"] == "image":
        head += f"{row['bits_per_pixel']:g} bits a pixel, {size}"
        offers = ["a prior for generate image"] * row["prior"]
    else:
        head += f"{row['bits_per_pixel']:g} bits a pixel of a frame, {size}"
        offers = [f"generate video, from {row['context_frames']} frames"]
    return [head, *([", ".join(offers)] if offers else []), row["folder"]]


def speakers(
    as_json: Annotated[bool, Option("--json", help="Print JSON, with the speaker vectors.")] = False,
    model: Model = None,
) -> None:
    """List the speakers bundled with a model, for `audiovq convert --to NAME`.

    Columns: name, languages, sex, median pitch, seconds of speech that the speaker vector is the mean of, licence.
    """
    codec = Models(engine="auto").load(model)
    voices = list(read_voices(codec).values())
    if as_json:
        print(json.dumps([asdict(voice) for voice in voices], indent=2, ensure_ascii=False))
        return
    if not voices:
        print(f"model {codec.name} has no bundled speakers; audiovq convert --to takes a recording of any speaker")
        return
    rows = []
    for voice in voices:
        pitch = "" if voice.pitch is None else f"{voice.pitch:.0f} Hz"
        rows.append(
            [voice.name, " ".join(voice.languages), voice.sex or "", pitch, f"{voice.seconds:.0f} s", voice.licence]
        )
    print_rows(rows, right=(3, 4))


app = typer.Typer(rich_markup_mode=None)


@app.callback()
def export() -> None:
    """Export models for other runtimes; see `audiovq export RUNTIME --help` for the options."""


@app.command(short_help="Export a speech model for ONNX Runtime.")
def onnx(
    folder: Annotated[Path, Argument(metavar="DIR", help="Folder for the export.")],
    model: Model = None,
    force: Force = False,
) -> None:
    """Export a speech model for ONNX Runtime: encoder, pitch tracker, speaker encoder and decoder as .onnx files.

    They read their weights from model.safetensors beside them, which is copied; onnx.json describes inputs, outputs and
    sizes. DIR may be the model's folder. `audiovq encode --model DIR`, decode and convert then use ONNX Runtime and
    need no PyTorch. The export itself does: pip install 'audiovq[onnx]'. The bundled model is exported already.
    """
    if (folder / hub.ONNX_DESCRIPTION).exists() and not force:
        raise AudioVQError(f"{folder} exists; -f overwrites it")
    source = hub.model_folder(model)
    from audiovq.codec.codec import SpeechCodec
    from audiovq.codec.onnx_export import export_onnx

    export_onnx(SpeechCodec.from_pretrained(source), folder, source)
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{folder}: {len(list(folder.iterdir()))} files, {size / 1e6:.1f} MB", file=sys.stderr)


MOST_SECONDS = 600.0
"""That the page may allow: everything stays in memory."""


def serve(
    host: Annotated[
        str, Option(metavar="ADDRESS", help="Address to listen on; 0.0.0.0 lets other machines in.")
    ] = "127.0.0.1",
    port: Annotated[int, Option(min=0, max=65535, metavar="N", help="Port; 0: any free one.")] = 7860,
    model: Model = None,
    max_seconds: Annotated[float, Option(metavar="S", help="Longest recording and sample, at most 600 s.")] = 60.0,
    device: Annotated[str, Option(metavar="cpu|cuda", help="Device of the model.")] = "cpu",
) -> None:
    """Serve a web page on this machine to compress, convert, generate and inspect speech.

    Needs Gradio: pip install 'audiovq[web]'. Nothing leaves the machine, and uploads are deleted when the page is
    closed. Ctrl-C ends it.
    """
    if not 1 <= max_seconds <= MOST_SECONDS:
        raise AudioVQError(f"--max-seconds is 1 to {MOST_SECONDS:g}, not {max_seconds:g}")
    import gradio  # noqa: F401 - first, so that a missing package is reported before anything is loaded

    from audiovq.web.server import is_local, listen, prior_of, serve_page, to_device

    def show(address: str) -> None:
        print(f"audiovq: the page is at {address} (Ctrl-C ends it)", file=sys.stderr, flush=True)

    sock = listen(host, port)
    with sock:
        codec = cast("SpeechCodec", Models(entropy_coding=True, live=True).load(model))  # the engine is PyTorch
        to_device(codec, device)
        if not is_local(host):
            print("audiovq: warning: other machines can reach this page; it has no password", file=sys.stderr)
        serve_page(codec, prior_of(codec), sock, max_seconds, show)


Overrides = Annotated[
    list[str] | None, Argument(metavar="KEY=VALUE", help="Hydra overrides: experiment=NAME, group=choice, key=value.")
]
ConfigDir = Annotated[Path | None, Option(metavar="DIR", help="Configuration folder; default: the package's.")]
Pack = Annotated[
    Path | None, Option(metavar="DIR", help="Do not train; write everything that training needs to this folder.")
]
Have = Annotated[str, Option(metavar="NAME,...|FILE", help="With --pack: packages installed on the other machine.")]
Audio = Annotated[str, Option(metavar="opus|flac|int16", help="With --pack: format of the recordings.")]
RunFolder = Annotated[Path | None, Option("--run", metavar="DIR", help="With --pack: continue from this run's state.")]
FromPack = Annotated[Path | None, Option(metavar="DIR", help="Train from a pack; needs --minutes and --out.")]
Minutes = Annotated[float | None, Option(metavar="N", help="With --from-pack: time limit of the command.")]
Join = Annotated[Path | None, Option(metavar="DIR", help="Copy the results of --from-pack into the folder of --run.")]


def train(
    overrides: Overrides = None,
    config_dir: ConfigDir = None,
    show: Annotated[bool, Option("--show", help="Print the configuration and exit.")] = False,
    pack: Pack = None,
    have: Have = "torch",
    python: Annotated[str, Option(metavar="VERSION", help="With --pack: the other machine's Python.")] = "3.12",
    audio: Audio = "opus",
    kbps: Annotated[float, Option(metavar="KBPS", help="With --pack: Opus bit rate.")] = 32.0,
    piece_mib: Annotated[float, Option(metavar="MIB", help="With --pack: maximum file size.")] = 60.0,
    run_folder: RunFolder = None,
    from_pack: FromPack = None,
    minutes: Minutes = None,
    out: Annotated[Path | None, Option(metavar="DIR", help="With --from-pack: folder for the results.")] = None,
    join: Join = None,
) -> None:
    """Train a model. Repeat the command to resume exactly from the run's last checkpoint.

    Needs the extra train: pip install 'audiovq[train]'.

    Example: audiovq train experiment=prior training.batch_size=16 name=mine

    For machines without a network, see docs/offline-training.md: --pack, --from-pack and --join.
    """
    from audiovq.training.run import compose, find_configs

    if join is not None:
        from audiovq.training.states import join as join_results

        if run_folder is None:
            raise AudioVQError("--join needs the run's folder: --run DIR")
        typer.echo(f"step {join_results(join, run_folder)} is in {run_folder}")
        return
    rank = int(os.environ.get("RANK", "0"))
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("audiovq").setLevel(logging.INFO if rank == 0 else logging.WARNING)
    if from_pack is not None:
        from audiovq.training.offline import train_from_pack

        if minutes is None or out is None:
            raise AudioVQError("training from a pack needs --minutes and --out")
        train_from_pack(from_pack, out, minutes, settings=overrides or ())
        typer.echo(f"done: results in {out}")
        return
    if not overrides:
        choices = sorted(path.stem for path in (find_configs(config_dir) / "experiment").glob("*.yaml"))
        raise AudioVQError(
            f"nothing to train: give experiment=NAME, one of {', '.join(choices)}; or key=value settings"
        )
    config = compose(overrides, config_dir)
    if show:
        from omegaconf import OmegaConf

        typer.echo(OmegaConf.to_yaml(config))
        return
    if pack is None:
        return _fit(config, rank)
    _pack(config, pack, run_folder, have, python, audio, kbps, piece_mib)


def _pack(
    config: Any, folder: Path, run: Path | None, have: str, python: str, audio: str, kbps: float, mib: float
) -> None:
    """Write all that a training needs to a folder."""
    from omegaconf import OmegaConf

    from audiovq.training.packing import PackOptions, read_names, write_pack

    settings = PackOptions(read_names(have), python, audio, kbps, piece_bytes=int(mib * 2**20))
    size = write_pack(OmegaConf.to_container(config), folder, settings, run)  # type: ignore[arg-type]
    typer.echo(f"done: {size / 2**20:.1f} MiB in {folder}; on the other machine: python run.py --minutes N --out OUT")


def _fit(config: Any, rank: int) -> None:
    """Train; an interrupt ends with the exit code of its signal."""
    from audiovq.training.batches import Stopped
    from audiovq.training.run import train as run

    try:
        folder = run(config)
    except Stopped as stop:
        if stop.number == signal.SIGINT:
            raise
        raise typer.Exit(128 + stop.number) from None
    if rank == 0:
        weights = [str(folder / name) for name in ("best", "latest") if (folder / name).is_dir()]
        typer.echo(f"done: weights in {weights[0] if weights else folder}, curves in {folder / 'tensorboard'}")
