"""The page in Chromium: an uploaded recording through every tab. Needs Gradio, Playwright and a Chromium."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from audiovq.bitstream import decode_file, load_encoded
from audiovq.web import server

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [pytest.mark.external, pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on the path")]
WAIT = 120_000
"""Milliseconds: machines are slow, and so is the first call of compiled code."""


@pytest.fixture(scope="module")
def chromium():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    # Recording takes Chromium's stand-in for a microphone, which beeps.
    options = ["--no-sandbox", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


@pytest.fixture
def serve(tmp_path, monkeypatch):
    """Serve a page from a thread: (codec, prior) -> its address. Its temporary files are in ``tmp_path / "served"``."""
    pytest.importorskip("gradio", reason="the extra web is not installed")
    import uvicorn

    served = tmp_path / "served"
    served.mkdir()
    running = []

    def start(codec, prior=None, max_seconds=10):
        monkeypatch.setenv("GRADIO_TEMP_DIR", str(served))
        monkeypatch.setattr(tempfile, "tempdir", str(served))
        sock = server.listen("127.0.0.1", 0)
        application = server.make_application(codec, prior, max_seconds, "127.0.0.1")
        own = uvicorn.Server(uvicorn.Config(application, log_level="error", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=own.run, kwargs={"sockets": [sock]}, daemon=True)
        thread.start()
        running.append((own, thread, sock))
        return f"http://127.0.0.1:{sock.getsockname()[1]}"

    yield start
    for own, thread, sock in running:
        own.should_exit = True
        thread.join(30)
        sock.close()


@pytest.fixture
def visit(chromium):
    """Open an address in a fresh profile. Requests to other hosts and errors of scripts fail the test at its end."""
    faults, contexts = [], []

    def open_page(address):
        contexts.append(chromium.new_context(viewport={"width": 1280, "height": 900}))
        page = contexts[-1].new_page()
        page.set_default_timeout(WAIT)
        page.on("request", lambda r: None if r.url.startswith((address, "data:", "blob:")) else faults.append(r.url))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(address)
        page.get_by_role("tab", name="Compress").wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []


def upload(page, where, path):
    page.set_input_files(f"#{where} input[type=file]", str(path))
    # Of audio the waveform appears, of another file its name.
    page.locator(f"#{where} #waveform, #{where} .file-preview").first.wait_for()


def press(page, tab, result):
    """Go to a tab, press its button, and wait for the result."""
    page.get_by_role("tab", name=tab).click()
    page.locator(f"#{tab.lower()}-button").click()
    return wait_for(page, result)


def wait_for(page, result):
    page.locator(f"#{result} :is(.avq-row, .avq-error)").first.wait_for()
    return page.locator(f"#{result}")


def download(page, link, path):
    with page.expect_download() as found:
        link.click()
    found.value.save_as(path)
    return found.value.suggested_filename


def files_in(folder):
    """Files with something in them."""
    return [path for path in Path(folder).rglob("*") if path.is_file() and path.stat().st_size]


def test_a_recording_through_every_tab(serve, visit, pitched, audio, tmp_path):
    page = visit(serve(pitched))
    upload(page, "source", audio(seconds=2.0))
    result = press(page, "Compress", "compressed")
    assert result.locator(".avq-row b").all_inner_texts()[0] == "Original"
    assert result.locator(".avq-row").count() == 5
    assert result.locator("polyline.f0").count() >= 4
    name = download(page, result.get_by_role("link", name=".avq").first, tmp_path / "a.avq")
    assert name == "speech-0.4-kbps.avq"
    download(page, result.get_by_role("link", name=".wav").first, tmp_path / "a.wav")
    decode_file(tmp_path / "a.avq", tmp_path / "b.wav", pitched)
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()

    result = press(page, "Convert", "converted")
    assert "high" in result.locator(".avq-row").nth(1).inner_text()
    page.get_by_label("another recording").check()
    upload(page, "target", audio("other.wav", seed=3))
    page.get_by_label("by semitones").check()
    page.locator("#semitones input[type=number]").fill("-5")
    page.locator("#convert-button").click()
    page.locator("#converted").get_by_text("other.wav").first.wait_for()
    download(page, result.get_by_role("link", name=".avq"), tmp_path / "c.avq")
    before, after = (load_encoded(tmp_path / f"{name}.avq", pitched).pitch[0].numpy() for name in "ac")
    voiced = before > 20
    assert voiced.any()
    assert np.array_equal(after[voiced], before[voiced] - 20)

    page.get_by_role("tab", name="Generate").click()
    assert "has no prior" in page.locator("#no-prior").inner_text()

    assert press(page, "Inspect", "inspected").locator("textarea").input_value()
    upload(page, "file", tmp_path / "c.avq")
    page.locator("#inspect-button").click()
    result = page.locator("#inspected")
    result.get_by_text("c.avq", exact=True).wait_for()
    tokens = result.locator("textarea").input_value().split()
    assert tokens == [str(code) for code in load_encoded(tmp_path / "c.avq", pitched).codes[0, 0].tolist()]


def test_generate(serve, visit, prior):
    page = visit(serve(prior.codec, prior))
    page.get_by_role("tab", name="Generate").click()
    page.locator("#seconds input[type=number]").fill("1")
    result = press(page, "Generate", "generated")
    assert result.locator(".avq-row b").all_inner_texts() == ["Sample 1", "Sample 2"]


def test_players(serve, visit, pitched, audio):
    page = visit(serve(pitched))
    upload(page, "source", audio(seconds=8.0))
    rows = press(page, "Compress", "compressed").locator(".avq-row")
    first, second = rows.nth(0), rows.nth(1)
    # A click into the middle of the plot plays from there, and draws a line there.
    box = first.locator("svg").bounding_box()
    first.locator("svg").click(position={"x": box["width"] * 0.5, "y": box["height"] / 2})
    page.wait_for_function("document.querySelector('.avq-row.playing audio')?.currentTime > 3.5")
    line = first.locator(".playhead")
    assert line.evaluate("line => getComputedStyle(line).visibility") == "visible"
    assert 450 < float(line.get_attribute("x1")) < 900
    # The button of another goes on at the same place and stops the first.
    second.get_by_role("button").click()
    page.wait_for_function("document.querySelectorAll('.avq-row')[1].classList.contains('playing')")
    assert second.locator("audio").evaluate("audio => audio.currentTime") > 3.5
    assert first.locator("audio").evaluate("audio => audio.paused")
    second.get_by_role("button").click()
    page.wait_for_function("!document.querySelector('.avq-row.playing')")


def test_errors_are_one_line_on_the_page(serve, visit, pitched, audio, tmp_path):
    page = visit(serve(pitched, max_seconds=2))
    result = press(page, "Compress", "compressed")
    assert result.inner_text().startswith("There is no recording yet")
    upload(page, "source", audio("long.wav", seconds=2.5))
    page.locator("#compress-button").click()
    result.get_by_text("long.wav: is longer than 2 s").wait_for()
    (tmp_path / "notes.avq").write_text("no speech at all")
    page.get_by_role("tab", name="Inspect").click()
    upload(page, "file", tmp_path / "notes.avq")
    assert press(page, "Inspect", "inspected").inner_text().startswith("notes.avq: is not audio")


def test_microphone(serve, visit, pitched):
    page = visit(serve(pitched))
    page.locator("#source").get_by_role("button", name="Record audio").click()
    page.locator("#source").get_by_role("button", name="Record", exact=True).click()
    page.wait_for_timeout(1500)
    page.locator("#source").get_by_role("button", name="Stop").first.click()
    page.locator("#source #waveform").first.wait_for()
    assert "Original" in press(page, "Compress", "compressed").inner_text()


def test_files_go_when_the_page_is_closed(serve, visit, pitched, audio, tmp_path):
    page = visit(serve(pitched))
    upload(page, "source", audio())
    press(page, "Compress", "compressed")
    assert [path.name for path in files_in(tmp_path / "served")] == ["speech.wav"]
    page.close()
    deadline = time.monotonic() + 60
    while files_in(tmp_path / "served") and time.monotonic() < deadline:
        time.sleep(0.2)
    assert files_in(tmp_path / "served") == []


@pytest.mark.skipif("AUDIOVQ_SCREENSHOTS" not in os.environ, reason="AUDIOVQ_SCREENSHOTS names no folder for pictures")
def test_screenshots(serve, visit):
    """Pictures of docs/web.md, with the model that AUDIOVQ_MODEL names."""
    from PIL import Image

    from audiovq.cli.loading import Models
    from audiovq.web.server import prior_of

    codec = Models().load(os.environ.get("AUDIOVQ_MODEL"))
    page = visit(serve(codec, prior_of(codec), 60))
    upload(page, "source", Path(__file__).parents[2] / "recipes" / "demo" / "speech.flac")
    folder = Path(os.environ["AUDIOVQ_SCREENSHOTS"])
    tabs = {"Compress": "compressed", "Convert": "converted", "Generate": "generated", "Inspect": "inspected"}
    for tab, result in tabs.items():
        page.get_by_role("tab", name=tab).click()
        if tab == "Convert":
            page.get_by_label("same speaker").check()
            page.get_by_label("by semitones").check()
        if page.locator(f"#{tab.lower()}-button").count():
            press(page, tab, result)
            page.wait_for_timeout(500)
        page.screenshot(path=folder / "page.png", full_page=True)
        Image.open(folder / "page.png").convert("RGB").save(folder / f"web-{tab.lower()}.webp", quality=80, method=6)
    (folder / "page.png").unlink()
