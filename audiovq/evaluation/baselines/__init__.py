"""Other codecs on the same speech, where their tools are installed, and a plain voice converter."""

from __future__ import annotations

import logging

from audiovq.evaluation.baselines.codecs import AMRWB, Baseline, Codec2, Opus, Speex, has_amr_encoder, missing_tools

log = logging.getLogger(__name__)


def make_baselines() -> list[Baseline]:
    """Every codec whose tools are installed; a warning in the log names the package of each that is not."""
    codecs: list[Baseline] = [
        *(Codec2(mode) for mode in ("1200", "2400", "3200")),
        *(Opus(rate) for rate in (6, 8, 12)),
        *(Opus(rate, wide=True) for rate in (6, 8)),
        *(Speex(quality) for quality in (0, 1, 2)),
    ]
    if has_amr_encoder():
        codecs.append(AMRWB(6.6))
    else:
        log.warning("AMR-WB is left out: its encoder's library is not installed (Debian: libvo-amrwbenc0)")
    absent: dict[str, list[str]] = {}
    for codec in codecs:
        if missing_tools(codec.tools):
            absent.setdefault(codec.package, []).append(codec.name)
    for package, names in absent.items():
        log.warning("%s left out: the tools are not installed (Debian: %s)", ", ".join(names), package)
    return [codec for codec in codecs if codec.package not in absent]


__all__ = ["AMRWB", "Baseline", "Codec2", "Opus", "Speex", "make_baselines"]
