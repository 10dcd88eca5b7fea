from __future__ import annotations

import logging

import numpy as np
import pytest

from audiovq.errors import AudioVQError
from audiovq.evaluation import peers
from audiovq.evaluation.align import common_delay, shift
from audiovq.evaluation.peers import make_peers, tools
from audiovq.evaluation.peers.amr import AMRWB, has_encoder
from audiovq.evaluation.peers.codec2 import Codec2
from audiovq.evaluation.peers.ogg import packet_sizes
from audiovq.evaluation.peers.opus import Opus
from audiovq.evaluation.peers.speex import Speex

CASES = {
    "opus": (lambda: Opus(12), (8, 15)),
    "opus wide": (lambda: Opus(6, wide=True), (5, 8)),
    "codec2": (lambda: Codec2("3200"), (3.2, 3.25)),
    "speex": (lambda: Speex(0), (3.9, 4.1)),
    "amr": (lambda: AMRWB(6.6), (6.6, 6.9)),
}


@pytest.mark.parametrize("case", CASES)
def test_a_peer_codes_at_its_rate_and_speech_comes_back(case, clean):
    if case == "amr" and not has_encoder():
        pytest.skip("AMR-WB's encoder is not installed")
    peer = CASES[case][0]()
    if tools.missing(peer.tools):
        pytest.skip(f"{peer.package} is not installed")
    coded = peer.code(clean)
    low, high = CASES[case][1]
    assert low <= coded.payload_bytes * 8 / 1000 / 4.0 <= high
    assert coded.file_bytes >= coded.payload_bytes
    delay = 0 if peer.exact else common_delay([clean], [coded.waveform])
    back = shift(coded.waveform, delay, len(clean))
    loudness = [np.sqrt(np.mean(x.reshape(-1, 800) ** 2, axis=1)) for x in (clean, back)]
    assert np.corrcoef(loudness)[0, 1] > 0.8


def _page(*segments: int) -> bytes:
    return b"OggS" + bytes(22) + bytes([len(segments), *segments]) + bytes(sum(segments))


def test_ogg_packets_span_segments_and_pages():
    assert packet_sizes(_page(19) + _page(255, 10, 3) + _page(255, 255) + _page(0, 7)) == [19, 265, 3, 510, 7]
    with pytest.raises(ValueError, match=r"Ogg"):
        packet_sizes(b"RIFF" + bytes(40))


def test_absent_tools_are_said_and_left_out(monkeypatch, caplog):
    monkeypatch.setattr(peers, "missing", lambda wanted: [tool for tool in wanted if tool.startswith("opus")])
    with caplog.at_level(logging.WARNING):
        names = [peer.name for peer in make_peers()]
    assert names
    assert not any(name.startswith("Opus") for name in names)
    lines = [record.getMessage() for record in caplog.records if "Opus" in record.getMessage()]
    assert len(lines) == 1
    assert "opus-tools" in lines[0]


def test_a_tool_that_fails_is_one_line():
    with pytest.raises(AudioVQError, match=r"^false failed"):
        tools.run("false")
