"""Other codecs on the same speech, where their tools are installed."""

from __future__ import annotations

import logging
from typing import Any

from audiovq.evaluation.peers.amr import AMRWB, has_encoder
from audiovq.evaluation.peers.codec2 import Codec2
from audiovq.evaluation.peers.opus import Opus
from audiovq.evaluation.peers.speex import Speex
from audiovq.evaluation.peers.tools import missing
from audiovq.evaluation.system import System

log = logging.getLogger(__name__)


def make_peers() -> list[System]:
    """Every peer whose tools are installed; for each that is not, one warning in the log says what to install."""
    wanted: list[Any] = [
        *(Codec2(mode) for mode in ("1200", "2400", "3200")),
        *(Opus(rate) for rate in (6, 8, 12)),
        *(Opus(rate, wide=True) for rate in (6, 8)),
        *(Speex(quality) for quality in (0, 1, 2)),
    ]
    if has_encoder():
        wanted.append(AMRWB(6.6))
    else:
        log.warning("AMR-WB is left out: its encoder's library is not installed (Debian: libvo-amrwbenc0)")
    absent: dict[str, list[str]] = {}
    for peer in wanted:
        if missing(peer.tools):
            absent.setdefault(peer.package, []).append(peer.name)
    for package, names in absent.items():
        log.warning("%s left out: the tools are not installed (Debian: %s)", ", ".join(names), package)
    return [peer for peer in wanted if peer.package not in absent]


__all__ = ["AMRWB", "Codec2", "Opus", "Speex", "make_peers"]
