"""The head of a model card as model hubs read it: YAML between two lines of dashes, before the text."""

from __future__ import annotations

from collections.abc import Sequence


def front_matter(task: str, tags: Sequence[str], languages: Sequence[str] = ()) -> str:
    """The lines for a card.

    Args:
        task: of the hub's list, such as ``audio-to-audio``.
        tags: further words to find the model by.
        languages: ISO 639 codes of what it was trained on.
    """
    # Weights have licences of their own, by what they are trained on: the card names them.
    lines = ["---", "license: other", "license_name: see-card", "library_name: audiovq"]
    lines += [f"pipeline_tag: {task}", "tags:", *(f"- {tag}" for tag in ("audiovq", "vq-vae", *tags))]
    if languages:
        lines += ["language:", *(f"- {language!r}" for language in languages)]
    return "\n".join([*lines, "---", "", ""])


#: Languages of the recordings that the speech models are trained on.
SPEECH_LANGUAGES = ("cs", "en", "es", "fr", "it", "nl", "ru")
HEADS = {
    "speech": front_matter(
        "audio-to-audio", ["speech-codec", "speech-tokenizer", "voice-conversion"], SPEECH_LANGUAGES
    ),
    "prior": front_matter("unconditional-audio-generation", ["speech"], SPEECH_LANGUAGES),
    "wavenet": front_matter("audio-to-audio", ["speech-codec", "vocoder", "wavenet"], SPEECH_LANGUAGES),
    "photo": front_matter("unconditional-image-generation", ["vq-vae-2", "image-codec"]),
    "doom": front_matter("image-to-video", ["video-prediction", "world-model"]),
}
"""Heads of the bundled models' cards, by the name of the folder."""
