"""The page: one recording beside four tabs. Needs the extra ``web``."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import wraps
from typing import TYPE_CHECKING, Any, Literal

import gradio as gr

from audiovq.conversion.target import read_voices
from audiovq.errors import AudioVQError
from audiovq.web import actions, results

if TYPE_CHECKING:
    from audiovq.conversion.pitch import Pitch
    from audiovq.conversion.target import TargetVoice
    from audiovq.interfaces import Codec, Progress
    from audiovq.prior import SpeechPrior

RANDOM = "random"
_BUNDLED, _RECORDED, _SAME = "bundled speaker", "another recording", "same speaker"
_AUTO, _KEEP, _SHIFT = "to the target's median", "as it is", "by semitones"
_NO_RECORDING = "There is no recording yet: drop a file on the left, or record with the microphone."
#: Actions share the model: one at a time.
_QUEUE: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "model", "api_visibility": "private"}
_QUIET: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}


@dataclass
class Uploads:
    """Temporary files by the session that they belong to."""

    files: dict[str, set[str]] = field(default_factory=dict)

    def replace(self, session: str, kind: str, path: str | None) -> None:
        """A session's input has another file now; the one before is deleted."""
        self.forget(f"{session} {kind}")
        if path is not None:
            self.files[f"{session} {kind}"] = {path}

    def forget(self, prefix: str) -> None:
        """Delete the files of a session, or of one of its inputs."""
        for key in [key for key in self.files if key.startswith(prefix)]:
            for path in self.files.pop(key):
                with suppress(OSError):
                    os.remove(path)


def guarded(action: Callable[..., str]) -> Callable[..., str]:
    """``action`` with its errors as results: one line on the page, and no traceback."""

    @wraps(action)
    def call(*arguments: Any, **settings: Any) -> str:
        try:
            return action(*arguments, **settings)
        except AudioVQError as error:
            return results.show_error(str(error))
        except Exception as error:
            if os.environ.get("AUDIOVQ_TRACEBACK"):
                traceback.print_exc()
            what = " ".join(str(error).split()) or "no message"
            print(f"audiovq: internal error: {type(error).__name__}: {what}", file=sys.stderr)
            return results.show_error(f"internal error: {type(error).__name__}: {what}")

    return call


def with_progress(method: Callable[..., str], text: str) -> Callable[..., str]:
    """A method of `Page` for a button: what it reports is a bar on the page, and an error is its result."""

    @guarded
    def call(progress: gr.Progress = gr.Progress(), *values: Any) -> str:  # noqa: B008
        return method(*values, progress=lambda done, total: progress(done / total if total else 0.0, desc=text))

    return call


def _audio_input(label: str, elem_id: str, visible: bool = True) -> gr.Audio:
    """Upload or microphone, without Gradio's button that would share the recording."""
    sources: list[Literal["upload", "microphone"]] = ["upload", "microphone"]
    return gr.Audio(sources=sources, type="filepath", label=label, elem_id=elem_id, visible=visible, buttons=[])


def _html(value: str = "", elem_id: str | None = None) -> gr.HTML:
    return gr.HTML(value, elem_id=elem_id, apply_default_css=False)


class Page:
    """The page of one model, and of its prior for the tab Generate; recordings last ``max_seconds`` at most."""

    def __init__(self, codec: Codec, prior: SpeechPrior | None, max_seconds: float) -> None:
        self.codec, self.prior, self.max_seconds = codec, prior, max_seconds
        self.speakers = read_voices(codec)
        self.uploads = Uploads()

    # -- what the buttons do ------------------------------------------------------------------------------------------

    def recording(self, path: str | None) -> actions.Recording:
        """The uploaded file; `AudioVQError` when there is none, or it cannot be used."""
        if not path:
            raise AudioVQError(_NO_RECORDING)
        return actions.read_recording(path, self.codec.sample_rate, self.max_seconds)

    def compress(self, path: str | None, codebooks: list[int], progress: Progress | None = None) -> str:
        """The tab Compress."""
        recording = self.recording(path)
        return results.show_compressed(recording, actions.compress(self.codec, recording, codebooks, progress))

    def convert(
        self,
        path: str | None,
        kind: str,
        name: str | None,
        target: str | None,
        pitch: str,
        semitones: float,
        codebooks: int,
        progress: Progress | None = None,
    ) -> str:
        """The tab Convert."""
        recording = self.recording(path)
        voice = self._target(recording, kind, name, target)
        chosen: Pitch = {_AUTO: "auto", _KEEP: "keep"}.get(pitch, float(semitones))  # type: ignore[assignment]
        version = actions.convert(self.codec, recording, voice, chosen, int(codebooks), progress)
        return results.show_converted(recording, version, actions.tracked_f0(self.codec, recording))

    def _target(self, recording: actions.Recording, kind: str, name: str | None, target: str | None) -> TargetVoice:
        if kind == _SAME:
            voice = actions.recorded_speaker(self.codec, recording)
            voice.name = _SAME
            return voice
        if kind == _RECORDED:
            if not target:
                raise AudioVQError("There is no recording of the target speaker yet: drop a file or record one.")
            return actions.recorded_speaker(self.codec, self.recording(target))
        return actions.bundled_speaker(self.codec, name or "")

    def generate(
        self,
        path: str | None,
        seconds: float,
        n: int,
        name: str,
        language: str | None,
        is_continuation: bool,
        temperature: float,
        top_p: float,
        seed: float,
        progress: Progress | None = None,
    ) -> str:
        """The tab Generate."""
        if self.prior is None:
            raise AudioVQError(self.no_prior)
        prompt = self.recording(path) if is_continuation else None
        speaker = None if name == RANDOM else actions.bundled_speaker(self.codec, name)
        settings = {"language": language or None, "temperature": temperature, "top_p": top_p, "seed": int(seed)}
        longest = min(float(seconds), self.max_seconds)
        made = actions.generate(self.prior, longest, int(n), speaker, prompt, progress, **settings)
        return results.show_versions(None, made)

    def inspect(self, file: str | None, path: str | None, codebooks: int, progress: Progress | None = None) -> str:
        """The tab Inspect."""
        if progress is not None:
            progress(0, None)
        if not file and not path:
            raise AudioVQError("There is nothing to inspect yet: drop an .avq file here, or a recording on the left.")
        found = actions.inspect(self.codec, file or path or "", self.max_seconds, int(codebooks))
        return results.show_inspection(found, self.codec)

    @property
    def no_prior(self) -> str:
        """The reason why nothing can be generated."""
        return (
            f"Model {self.codec.name} has no prior over its codes, so it cannot generate speech. Train one with: "
            "audiovq train experiment=prior task.codec=MODEL"
        )

    # -- layout -------------------------------------------------------------------------------------------------------

    def build(self) -> gr.Blocks:
        """The page for Gradio."""
        with gr.Blocks(title="audiovq", analytics_enabled=False, delete_cache=(300, 3600), fill_width=True) as blocks:
            _html(self._head())
            with gr.Row(equal_height=False):
                with gr.Column(scale=0, min_width=330):
                    source = _audio_input("Recording", "source")
                    _html(
                        f'<p class="avq-small">WAV, FLAC, Ogg, MP3 and more, up to {self.max_seconds:g} s; channels '
                        "are mixed to one. Everything runs on the machine that serves this page: nothing is sent "
                        "elsewhere, and files are deleted when the page is closed.</p>"
                    )
                with gr.Column(scale=1, min_width=480), gr.Tabs():
                    with gr.Tab("Compress", id="compress"):
                        self._compress_tab(source)
                    with gr.Tab("Convert", id="convert"):
                        self._convert_tab(source)
                    with gr.Tab("Generate", id="generate"):
                        self._generate_tab(source)
                    with gr.Tab("Inspect", id="inspect"):
                        self._inspect_tab(source)
            self._track(source, "source")
            blocks.unload(self._closed)
        return blocks

    def _head(self) -> str:
        codec = self.codec
        bits = (codec.codebook_size - 1).bit_length()
        facts = [
            f"model <b>{codec.name}</b> ({codec.model_hash.hex()})",
            f"{codec.sample_rate / 1000:g} kHz",
            f"{codec.frame_rate:g} frames per second",
            f"{codec.n_codebooks} codebooks of {bits} bits",
            "coded pitch and level",
        ]
        return f'<div class="avq-head"><h1>audiovq</h1><span>{" · ".join(facts)}</span></div>'

    def _compress_tab(self, source: gr.Audio) -> None:
        rates = [(f"{rate:.3g} kb/s", n) for n, rate in enumerate(self.codec.bitrates, 1)]
        some = sorted({n for n in (1, 2, self.codec.default_n_codebooks, self.codec.n_codebooks) if n <= len(rates)})
        chosen = gr.CheckboxGroup(rates, value=some, label="Nominal bitrates", elem_id="rates")
        button = gr.Button("Compress", variant="primary", elem_classes="avq-go", elem_id="compress-button")
        output = _html(elem_id="compressed")

        button.click(with_progress(self.compress, "Coding"), [source, chosen], output, **_QUEUE)

    def _convert_tab(self, source: gr.Audio) -> None:
        kinds = [_BUNDLED, _RECORDED, _SAME] if self.speakers else [_RECORDED, _SAME]
        with gr.Row(equal_height=False):
            with gr.Column():
                kind = gr.Radio(kinds, value=kinds[0], label="Target speaker", elem_id="target-kind")
                name = self._speaker_list("Bundled speaker", [], bool(self.speakers))
                target = _audio_input("Several seconds of the target speaker", "target", not self.speakers)
            with gr.Column():
                pitch = gr.Radio([_AUTO, _KEEP, _SHIFT], value=_AUTO, label="Move the pitch", elem_id="pitch")
                semitones = gr.Slider(-12, 12, 4, step=1, label="Semitones", visible=False, elem_id="semitones")
                codebooks = gr.Slider(
                    1,
                    self.codec.n_codebooks,
                    self.codec.conversion_codebooks,
                    step=1,
                    label="Codebooks",
                    info="Fewer keep less of the source's speaker.",
                )
        button = gr.Button("Convert", variant="primary", elem_classes="avq-go", elem_id="convert-button")
        output = _html(elem_id="converted")
        shown = [name, target]
        kind.change(lambda k: [gr.update(visible=k == one) for one in (_BUNDLED, _RECORDED)], kind, shown, **_QUIET)
        pitch.change(lambda p: gr.update(visible=p == _SHIFT), pitch, semitones, **_QUIET)
        self._track(target, "target")
        inputs = [source, kind, name, target, pitch, semitones, codebooks]
        button.click(with_progress(self.convert, "Converting"), inputs, output, **_QUEUE)

    def _generate_tab(self, source: gr.Audio) -> None:
        if self.prior is None:
            _html(results.show_note(self.no_prior), elem_id="no-prior")
            return
        defaults, languages = self.prior.prior.sampling, self.prior.prior.config["languages"]
        _html(
            '<p class="avq-small">Speech-like sound, drawn from the prior over codes: it forms no sentences. The first '
            "time on a machine the sampler is compiled, which takes up to a minute.</p>"
        )
        with gr.Row():
            seconds = gr.Slider(1, min(self.max_seconds, 30), 5, step=1, label="Seconds", elem_id="seconds")
            samples = gr.Slider(1, 4, 2, step=1, label="Samples", elem_id="samples")
            seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=2**31 - 1)
        with gr.Row():
            name = self._speaker_list("Speaker", [(RANDOM, RANDOM)])
            language = gr.Dropdown([("any", ""), *((one, one) for one in languages)], value="", label="Language")
        with gr.Row():
            temperature = gr.Slider(0, 1.5, defaults.temperature, step=0.05, label="Temperature")
            top_p = gr.Slider(0.05, 1, defaults.top_p, step=0.05, label="Top-p")
            follow = gr.Checkbox(False, label="Continue the recording", info="With its speaker, unless one is chosen.")
        button = gr.Button("Generate", variant="primary", elem_classes="avq-go", elem_id="generate-button")
        output = _html(elem_id="generated")
        inputs = [source, seconds, samples, name, language, follow, temperature, top_p, seed]
        button.click(with_progress(self.generate, "Sampling"), inputs, output, **_QUEUE)

    def _inspect_tab(self, source: gr.Audio) -> None:
        with gr.Row(equal_height=False):
            file = gr.File(label="An .avq file; without one, the recording is coded", height=140, elem_id="file")
            codebooks = gr.Slider(
                1, self.codec.n_codebooks, self.codec.default_n_codebooks, step=1, label="Codebooks for the recording"
            )
        button = gr.Button("Inspect", variant="primary", elem_classes="avq-go", elem_id="inspect-button")
        output = _html(elem_id="inspected")
        self._track(file, "file")
        button.click(with_progress(self.inspect, "Coding"), [file, source, codebooks], output, **_QUEUE)

    def _speaker_list(self, label: str, before: list[tuple[str, str]], visible: bool = True) -> gr.Dropdown:
        choices = list(before)
        for voice in self.speakers.values():
            facts = [voice.sex or "", " ".join(voice.languages), "" if voice.pitch is None else f"{voice.pitch:.0f} Hz"]
            choices.append((f"{voice.name} ({', '.join(filter(None, facts))})", voice.name))
        first = choices[0][1] if choices else None
        return gr.Dropdown(choices, value=first, label=label, visible=visible)

    # -- temporary files ----------------------------------------------------------------------------------------------

    def _track(self, component: Any, kind: str) -> None:
        """Delete an input's file when another one takes its place."""

        def changed(path: str | None, request: gr.Request) -> None:
            self.uploads.replace(str(request.session_hash), kind, path)

        component.change(changed, component, None, **_QUIET)

    def _closed(self, request: gr.Request) -> None:
        self.uploads.forget(str(request.session_hash))
