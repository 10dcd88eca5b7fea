"""What the page shows: numbers, files inside it, and nothing that a file name could smuggle in."""

from __future__ import annotations

import base64
import json
import re

import numpy as np
import pytest

from audiovq.web import actions, results


def cells_of(table):
    rows = re.findall(r"<tr>(.*?)</tr>", table)
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in rows]


def files_in(html, kind):
    return [base64.b64decode(text) for text in re.findall(rf'"data:{kind};base64,([^"]+)"', html)]


def test_sizes(audio, pitched):
    recording = actions.read_recording(audio(seconds=2.0), 16000, 60)
    versions = actions.compress(pitched, recording, [1, 4])
    head, pcm, mp3, *coded = cells_of(results.size_table(recording, versions))
    assert head[1:] == ["nominal kb/s", "kb/s in the file", "bytes", "PCM : file", "MP3 : file"]
    assert pcm[2:] == ["256.00", "64,000", "1 : 1", "0.25 : 1"]
    assert mp3[2:] == ["64.00", "16,000", "4 : 1", "1 : 1"]
    for cells, version in zip(coded, versions, strict=True):
        size = len(version.avq)
        assert cells[2:4] == [f"{size * 8 / 2 / 1000:.2f}", f"{size:,}"]
        assert float(cells[4].split()[0]) == pytest.approx(64000 / size, rel=0.05)


def test_files_are_inside(audio, pitched):
    recording = actions.read_recording(audio(), 16000, 60)
    versions = actions.compress(pitched, recording, [1, 2])
    html = results.show_compressed(recording, versions)
    assert files_in(html, "application/octet-stream") == [v.avq for v in versions]
    assert files_in(html, "audio/wav")[1:] == [v.wav for v in versions]
    assert len(files_in(html, "image/png")) == 3
    assert not re.search(r'(?:src|href)="(?!data:|#")', html)


def test_names_are_escaped(audio, pitched):
    name = '"><script>alert(1)</script>.wav'
    source = actions.read_recording(audio(), 16000, 60)
    recording = actions.Recording(name, source.samples, 16000, [f"warning: {name}"])
    html = results.show_compressed(recording, actions.compress(pitched, recording, [1]))
    html += results.show_error(name) + results.show_note(name)
    assert "<script>" not in html
    assert "&lt;script&gt;" in html


def test_statistics():
    codes = np.array([np.arange(8), [3, 3, 3, 3, 3, 3, 3, 3], [1, 1, 2, 2, 1, 1, 2, 2]])
    _, *rows = cells_of(results.statistics_table(codes, 32))
    assert [row[:5] for row in rows] == [
        ["1", "8 of 32", "8.0", "3.00", "0%"],
        ["2", "1 of 32", "1.0", "0.00", "100%"],
        ["3", "2 of 32", "2.0", "1.00", "57%"],
    ]
    assert rows[2][5] == "1 (4), 2 (4)"


def test_inspection(audio, pitched):
    found = actions.inspect(pitched, audio(), 60, 2)
    html = results.show_inspection(found, pitched)
    (data,) = files_in(html, "application/json")
    content = json.loads(data)
    assert content["codes"] == found.encoded.codes[0].tolist()
    assert np.allclose(content["f0_hz"], found.version.f0, atol=0.01)
    tokens = re.search(r"<textarea[^>]*>([^<]*)<", html)[1]
    assert tokens.split() == [str(code) for code in content["codes"][0]]
    facts = results.info_rows(found, pitched)
    assert facts["codes"] == "2 codebooks of 5 bits, 75 frames"
    assert facts["speaker vector"].split() == [str(level) for level in content["speaker"]]


def test_other_states_of_a_file(audio, pitched, codec, tmp_path):
    from audiovq.bitstream import encode_file

    encode_file(audio(), tmp_path / "a.avq", codec, 1)
    html = results.show_inspection(actions.inspect(pitched, tmp_path / "a.avq", 60), pitched)
    assert "the model that wrote it" in html
    assert "another model" in html
    data = (tmp_path / "a.avq").read_bytes()
    (tmp_path / "a.avq").write_bytes(data[:-3])
    html = results.show_inspection(actions.inspect(pitched, tmp_path / "a.avq", 60), pitched)
    assert 'role="alert">a.avq: ' in html
