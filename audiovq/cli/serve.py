"""``audiovq serve``: the web page."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, cast

import typer

from audiovq.cli import options
from audiovq.errors import AudioVQError

if TYPE_CHECKING:
    from audiovq.codec.codec import SpeechCodec
    from audiovq.prior import SpeechPrior

LONGEST = 600.0
"""Seconds that the page may allow: everything stays in memory."""


def serve(
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Address to listen on; 0.0.0.0 lets other machines in.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, metavar="N", help="Port; 0: any free one.")] = 7860,
    model: options.Model = None,
    max_seconds: Annotated[
        float, typer.Option(metavar="S", help="Longest recording and sample, at most 600 s.")
    ] = 60.0,
    device: Annotated[str, typer.Option(metavar="cpu|cuda", help="Device of the model.")] = "cpu",
) -> None:
    """Serve a web page on this machine to compress, convert, generate and inspect speech.

    Needs Gradio: pip install 'audiovq[web]'. Nothing leaves the machine, and uploads are deleted when the page is
    closed. Ctrl-C ends it.
    """
    if not 1 <= max_seconds <= LONGEST:
        raise AudioVQError(f"--max-seconds is 1 to {LONGEST:g}, not {max_seconds:g}")
    import gradio  # noqa: F401 - first, so that a missing package is reported before anything is loaded

    from audiovq.cli.loading import Models
    from audiovq.web.server import is_local, listen, serve_page

    sock = listen(host, port)
    with sock:
        codec = cast("SpeechCodec", Models(entropy_coding=True, live=True).load(model))  # the engine is PyTorch
        to_device(codec, device)
        if not is_local(host):
            print("audiovq: warning: other machines can reach this page; it has no password", file=sys.stderr)
        serve_page(codec, prior_of(codec), sock, max_seconds, _show_address)


def prior_of(codec: SpeechCodec) -> SpeechPrior | None:
    """The prior in a model's folder; None where there is none."""
    from audiovq.prior.speech import FOLDER, SpeechPrior, load_prior

    if codec.folder is None or not (codec.folder / FOLDER / "config.json").is_file():
        return None
    return SpeechPrior(codec, *load_prior(codec.folder / FOLDER, codec))


def to_device(codec: SpeechCodec, device: str) -> None:
    """Move a model; raise `AudioVQError` unless it codes and decodes there."""
    import numpy as np
    import torch

    try:
        if torch.device(device).type == "cuda" and not torch.cuda.is_available():
            raise AudioVQError(f"--device {device}: torch sees no such device on this machine; use cpu")
        codec.to(device)
        stream = codec.encoder_stream()
        packets = stream.push(np.zeros(codec.sample_rate // 2, np.float32)) + stream.finish()
        assert stream.speaker is not None
        codec.decoder_stream(stream.speaker).push(packets[0])
    except (RuntimeError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise AudioVQError(f"--device {device}: model {codec.name} does not run there ({reason}); use cpu") from error


def _show_address(address: str) -> None:
    print(f"audiovq: the page is at {address} (Ctrl-C ends it)", file=sys.stderr, flush=True)
