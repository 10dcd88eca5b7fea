"""Text to words that can be compared with what a recogniser heard."""

from __future__ import annotations

import re
import unicodedata

#: Zero to ten, as a recogniser writes what transcripts have as figures.
_NUMBERS = {
    "en": "zero one two three four five six seven eight nine ten",
    "es": "cero uno dos tres cuatro cinco seis siete ocho nueve diez",
    "fr": "zéro un deux trois quatre cinq six sept huit neuf dix",
    "it": "zero uno due tre quattro cinque sei sette otto nove dieci",
    "ru": "ноль один два три четыре пять шесть семь восемь девять десять",
}


def words(text: str, language: str | None = None) -> list[str]:
    """Lower-case words with no accents and no punctuation; figures up to 10 become words in a language known here.

    Accents and apostrophes go because nobody hears them: a transcript that leaves them out is not read wrongly.
    """
    letters = unicodedata.normalize("NFKD", text.casefold().replace("'", "").replace("\u2019", ""))
    letters = "".join(letter for letter in letters if not unicodedata.combining(letter))
    found = re.sub(r"[\W_]+", " ", letters).split()
    if language not in _NUMBERS:
        return found
    spelled = words(_NUMBERS[language])
    return [spelled[int(word)] if word.isdecimal() and int(word) < len(spelled) else word for word in found]
