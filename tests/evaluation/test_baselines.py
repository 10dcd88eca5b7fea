from __future__ import annotations

import logging

import numpy as np
import pytest

from audiovq.errors import AudioVQError
from audiovq.evaluation import baselines
from audiovq.evaluation.baselines import (
    AMRWB,
    Codec2,
    Opus,
    Speex,
    make_baselines,
    missing_tools,
    packet_sizes,
    run_tool,
)
from audiovq.evaluation.protocol import common_delay, remove_delay

CASES = {
    "opus": (lambda: Opus(12), (8, 15)),
    "opus wide": (lambda: Opus(6, wide=True), (5, 8)),
    "codec2": (lambda: Codec2("3200"), (3.2, 3.25)),
    "speex": (lambda: Speex(0), (3.9, 4.1)),
    "amr": (lambda: AMRWB(6.6), (6.6, 6.9)),
}


@pytest.mark.external
@pytest.mark.parametrize("case", CASES)
def test_a_baseline_codes_at_its_rate_and_speech_comes_back(case, clean):
    codec = CASES[case][0]()
    if missing_tools(codec.tools):
        pytest.skip(f"{codec.package} is not installed")
    coded = codec.code(clean)
    low, high = CASES[case][1]
    assert low <= coded.payload_bytes * 8 / 1000 / 4.0 <= high
    assert coded.file_bytes >= coded.payload_bytes
    delay = 0 if codec.exact else common_delay([clean], [coded.waveform])
    back = remove_delay(coded.waveform, delay, len(clean))
    loudness = [np.sqrt(np.mean(x.reshape(-1, 800) ** 2, axis=1)) for x in (clean, back)]
    assert np.corrcoef(loudness)[0, 1] > 0.8


def _page(*segments: int) -> bytes:
    return b"OggS" + bytes(22) + bytes([len(segments), *segments]) + bytes(sum(segments))


def test_ogg_packets_span_segments_and_pages():
    assert packet_sizes(_page(19) + _page(255, 10, 3) + _page(255, 255) + _page(0, 7)) == [19, 265, 3, 510, 7]
    with pytest.raises(ValueError, match=r"Ogg"):
        packet_sizes(b"RIFF" + bytes(40))


def test_absent_tools_are_said_and_left_out(monkeypatch, caplog):
    monkeypatch.setattr(baselines, "missing_tools", lambda wanted: [tool for tool in wanted if tool.startswith("opus")])
    with caplog.at_level(logging.WARNING):
        names = [codec.name for codec in make_baselines()]
    assert names
    assert not any(name.startswith("Opus") for name in names)
    lines = [record.getMessage() for record in caplog.records if "Opus" in record.getMessage()]
    assert len(lines) == 1
    assert "opus-tools" in lines[0]


def test_a_tool_that_fails_is_one_line():
    with pytest.raises(AudioVQError, match=r"^false failed"):
        run_tool("false")
