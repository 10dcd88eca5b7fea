"""The page's tabs as functions, and what becomes of uploads; needs Gradio."""

from __future__ import annotations

import pytest

from audiovq.errors import AudioVQError
from tests.fake_codec import FakeCodec

pytest.importorskip("gradio", reason="the extra web is not installed")
from audiovq.web.page import Page, Uploads, guarded


@pytest.fixture
def page(pitched):
    return Page(pitched, None, 10)


def text_of(blocks):
    return str(blocks.get_config_file())


def test_errors_are_results(capsys):
    @guarded
    def refuse(what):
        raise AudioVQError(f"no {what}")

    @guarded
    def fail():
        raise ZeroDivisionError("by\nzero")

    assert refuse("<b>") == '<div class="avq-error" role="alert">no &lt;b&gt;</div>'
    assert "internal error: ZeroDivisionError: by zero" in fail()
    assert capsys.readouterr().err == "audiovq: internal error: ZeroDivisionError: by zero\n"


class TestTabs:
    def test_each_wants_a_recording(self, page):
        for action, arguments in (
            (page.compress, ([1],)),
            (page.convert, ("same speaker", None, None, "as it is", 0, 1)),
        ):
            with pytest.raises(AudioVQError, match="no recording yet"):
                action(None, *arguments)
        with pytest.raises(AudioVQError, match="nothing to inspect"):
            page.inspect(None, None, 1)

    @pytest.mark.parametrize("pitch", ["to the target's median", "as it is", "by semitones"])
    @pytest.mark.parametrize("kind", ["bundled speaker", "another recording", "same speaker"])
    def test_convert(self, page, audio, kind, pitch):
        html = page.convert(str(audio()), kind, "low", str(audio("other.wav", seed=3)), pitch, 5, 2)
        assert {"bundled speaker": "low", "another recording": "other.wav", "same speaker": "same speaker"}[
            kind
        ] in html
        assert "Converted" in html

    def test_convert_without_a_target(self, page, audio):
        with pytest.raises(AudioVQError, match="target speaker"):
            page.convert(str(audio()), "another recording", None, None, "as it is", 0, 1)

    def test_inspect_prefers_the_file(self, page, audio):
        html = page.inspect(str(audio("a.wav")), str(audio("b.wav")), 1)
        assert "a.wav" in html
        assert "b.wav" not in html

    def test_generate(self, prior):
        page = Page(prior.codec, prior, 10)
        settings = (None, 0.5, 2, "random", "en", False, 1.0, 0.9, 3)
        assert page.generate(*settings) == page.generate(*settings)
        assert "Sample 2" in page.generate(*settings)


class TestLayout:
    def test_what_a_model_lacks_is_said(self, page, prior):
        without, with_prior = text_of(page.build()), text_of(Page(prior.codec, prior, 10).build())
        assert "has no prior" in without
        assert "generate-button" not in without
        assert "has no prior" not in with_prior
        assert "generate-button" in with_prior
        # The one has bundled speakers, the other has none.
        assert "low (male, en, 110 Hz)" in without
        assert "bundled speaker" not in with_prior

    def test_a_codec_of_the_protocol_is_enough(self, audio):
        page = Page(FakeCodec(), None, 10)
        assert "0.5 kb/s" in text_of(page.build())
        assert "4 codebooks" in page.compress(str(audio()), [4, 8])
        assert "model" in page.inspect(None, str(audio()), 4)

    def test_no_action_is_an_open_interface(self, page):
        actions = page.build().get_config_file()["dependencies"]
        assert len(actions) > 5
        assert all(action["api_visibility"] == "private" for action in actions if action["targets"][0][1] != "unload")


def test_uploads_are_deleted(tmp_path):
    files = {name: tmp_path / name for name in "abcd"}
    for file in files.values():
        file.write_text("x")
    uploads = Uploads()
    uploads.replace("one", "source", str(files["a"]))
    uploads.replace("one", "target", str(files["b"]))
    uploads.replace("two", "source", str(files["c"]))
    uploads.replace("one", "source", str(files["d"]))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "c", "d"]
    uploads.forget("one")
    assert [path.name for path in tmp_path.iterdir()] == ["c"]
    uploads.replace("two", "source", None)
    assert list(tmp_path.iterdir()) == []
