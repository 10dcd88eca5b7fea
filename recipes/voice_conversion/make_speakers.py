"""The voices that come with a model: speaker vectors of the corpus's main voices, from training recordings alone.

    python recipes/voice_conversion/make_speakers.py [MODEL ...]

MODEL is a bundled model's name or a folder with a model; all bundled ones without it. `speakers.json` is written
beside the weights. Run it again whenever the weights change.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict

from audiovq import SpeechCodec
from audiovq.conversion.target import BundledVoice, TargetVoice, voice_entry, write_voices
from audiovq.data.corpora import open_corpus
from audiovq.data.utterance import Utterance
from audiovq.errors import AudioVQError
from audiovq.evaluation.pairs import MAIN_MINUTES, short_name, spread
from audiovq.hub import bundled_models

SECONDS = 120.0
"""Speech of each voice, from all over its training recordings."""
#: Where the packages say who speaks: the Asterisk voices by their names, the fish by their parts.
SEX = {
    "asterisk-allison": "female",
    "asterisk-june": "female",
    "asterisk-carlo": "male",
    "fillets-cs-small": "female",
    "fillets-cs-big": "male",
    "fillets-nl-small": "female",
    "fillets-nl-big": "male",
}


def main_voices(corpus: str = "debian_speech") -> dict[str, list[Utterance]]:
    """Training utterances of every voice with more than five minutes of them, ordered by id."""
    spoken: dict[str, list[Utterance]] = defaultdict(list)
    for utterance in sorted(open_corpus(corpus, "train"), key=lambda one: one.id):
        spoken[utterance.speaker].append(utterance)
    return {s: u for s, u in sorted(spoken.items()) if sum(one.seconds for one in u) > 60 * MAIN_MINUTES}


def bundled_voice(codec: SpeechCodec, speaker: str, utterances: list[Utterance]) -> BundledVoice:
    """One voice as this model hears it."""
    voice = TargetVoice(codec, speaker)
    for utterance in spread(utterances, SECONDS):
        voice.add(utterance.load())
    voice.finish_recording()
    name = short_name(speaker)
    return voice_entry(
        voice,
        name,
        sorted({utterance.language for utterance in utterances}),
        SEX.get(name),
        " and ".join(sorted({utterance.licence for utterance in utterances})),
        " and ".join(sorted({utterance.source for utterance in utterances})),
    )


def make_speakers(model: str) -> None:
    """Write the voices of one model."""
    codec = SpeechCodec.from_pretrained(model)
    assert codec.folder is not None
    voices = [bundled_voice(codec, speaker, spoken) for speaker, spoken in main_voices().items()]
    path = write_voices(codec, voices, codec.folder)
    print(f"{path}: {len(voices)} voices of model {codec.name} ({codec.model_hash.hex()})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL")
    for model in parser.parse_args().models or bundled_models():
        make_speakers(model)


if __name__ == "__main__":
    try:
        main()
    except AudioVQError as error:
        sys.exit(f"error: {error}")
