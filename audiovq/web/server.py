"""The web server: one page on one address, nothing from elsewhere, no file left behind. Needs the extra ``web``."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from audiovq.errors import AudioVQError

if TYPE_CHECKING:
    from audiovq.codec.codec import SpeechCodec
    from audiovq.interfaces import Codec
    from audiovq.prior import SpeechPrior

# Gradio reads these when it is imported.
_ENVIRONMENT = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_RUN_HISTORY": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
}
#: Browsers refuse whatever would come from, or go to, another host.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self' data: blob:; worker-src 'self' blob:; object-src 'none'; form-action 'self'; "
    "frame-ancestors 'self'; base-uri 'self'"
)
_FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif"]
_MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]
_BYTES_PER_SECOND = 400_000
"""Of an upload: stereo at 48 kHz in 32 bits."""


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes any that is free.

    Raises:
        AudioVQError: when the address is not this machine's, or the port is taken.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except socket.gaierror as error:
        raise AudioVQError(f"--host {host}: no such address on this machine") from error
    except OverflowError as error:
        raise AudioVQError(f"--port is 0 to 65535, not {port}") from error
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise AudioVQError(f"cannot listen on {host} port {port}: {reason}; choose another --port or --host") from error


def is_local(host: str) -> bool:
    """Whether an address is reachable from this machine alone."""
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"


def prior_of(codec: SpeechCodec) -> SpeechPrior | None:
    """The prior in a model's folder; None where there is none."""
    from audiovq.prior.speech import FOLDER, SpeechPrior, load_prior

    if codec.folder is None or not (codec.folder / FOLDER / "config.json").is_file():
        return None
    return SpeechPrior(codec, *load_prior(codec.folder / FOLDER, codec))


def to_device(codec: SpeechCodec, device: str) -> None:
    """Move a model; raise `AudioVQError` unless it codes and decodes there."""
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


def serve_page(
    codec: Codec, prior: SpeechPrior | None, sock: socket.socket, max_seconds: float, ready: Callable[[str], None]
) -> None:
    """Serve the page on a socket from `listen` until the process is asked to end. Temporary files are deleted then.

    ``ready`` is called with the page's address.
    """
    host, port = sock.getsockname()[:2]
    with tempfile.TemporaryDirectory(prefix="audiovq-serve-") as folder:
        os.environ.update(_ENVIRONMENT, GRADIO_TEMP_DIR=folder)
        import uvicorn

        application = make_application(codec, prior, max_seconds, host)
        settings = uvicorn.Config(
            application, log_level="error", access_log=False, timeout_graceful_shutdown=1, server_header=False
        )
        shown = f"[{host}]" if ":" in host else host
        ready(f"http://{shown}:{port}")
        with suppress(KeyboardInterrupt):
            uvicorn.Server(settings).run(sockets=[sock])


def make_application(codec: Codec, prior: SpeechPrior | None, max_seconds: float, host: str) -> Any:
    """The page as an ASGI application."""
    import gradio as gr
    from fastapi import FastAPI
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from audiovq.web.page import Page

    here = Path(__file__).parent
    application = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    application.add_middleware(_Headers)
    if is_local(host) and ":" not in host:
        # Other sites' names that resolve to this machine get no answer.
        application.add_middleware(TrustedHostMiddleware, allowed_hosts=["localhost", host])
    theme = gr.themes.Default(primary_hue="teal", neutral_hue="slate", font=_FONTS, font_mono=_MONO)
    return gr.mount_gradio_app(
        application,
        Page(codec, prior, max_seconds).build(),
        path="/",
        app_kwargs={"docs_url": None, "redoc_url": None, "openapi_url": None},
        footer_links=[],
        run_history=False,
        max_file_size=round(max_seconds * _BYTES_PER_SECOND) + (1 << 20),
        show_error=False,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=theme,
        css=(here / "page.css").read_text(encoding="utf-8"),
        head=f"<script>{(here / 'page.js').read_text(encoding='utf-8')}</script>",
    )


class _Headers:
    """Adds headers that keep the page to itself."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                extra = [(b"content-security-policy", POLICY.encode()), (b"referrer-policy", b"no-referrer")]
                if scope["path"].startswith("/gradio_api"):  # recordings and results
                    extra.append((b"cache-control", b"no-store"))
                message = {**message, "headers": [*message.get("headers", []), *extra]}
            await send(message)

        await self._app(scope, receive, with_headers)
