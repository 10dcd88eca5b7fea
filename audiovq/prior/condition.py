"""What a prior may be told: who speaks, and in which language."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from audiovq.errors import AudioVQError

if TYPE_CHECKING:
    from audiovq.speech.codec import SpeechCodec


@dataclass
class Condition:
    """Conditions of a batch; None where nobody said.

    Attributes:
        speaker: (B, S) float, the speaker vector as the codec's decoder gets it.
        language: (B,) int64, places in the prior's list of languages; -1 for unknown.
    """

    speaker: Tensor | None = None
    language: Tensor | None = None

    def items(self, start: int, stop: int) -> Condition:
        """Those of some items."""
        return Condition(*(None if x is None else x[start:stop] for x in (self.speaker, self.language)))


def condition_of(codec: SpeechCodec, batch: Mapping[str, Tensor]) -> Condition:
    """Of a batch with quantized speaker vectors ``voice`` (B, S) and numbers ``language`` (B,)."""
    with torch.no_grad():
        return Condition(codec.speaker_encoder.decode(batch["voice"]).float(), batch["language"])


class Conditioner(nn.Module):
    """Conditions to one vector that is added to every input of the backbone.

    Where a condition is missing a learned vector stands for it. In training conditions are left out at random (as for
    classifier-free guidance, Ho and Salimans 2022), so that the model also knows speech by nobody in particular.

    Args:
        width: of the vector.
        speaker_dim: of speaker vectors; 0 for a model without them.
        languages: ISO 639 codes, in the order of their numbers.
    """

    def __init__(self, width: int, speaker_dim: int, languages: Sequence[str]) -> None:
        super().__init__()
        self.languages = tuple(languages)
        self.speaker = nn.Linear(speaker_dim, width) if speaker_dim else None
        self.no_speaker = nn.Parameter(torch.zeros(width))
        # The last row is the unknown language.
        self.language = nn.Parameter(0.02 * torch.randn(len(self.languages) + 1, width))

    def number(self, language: str | None) -> int:
        """A language's number, -1 for None.

        Raises:
            AudioVQError: for one that training had not.
        """
        if language is None:
            return -1
        if language not in self.languages:
            raise AudioVQError(
                f"this prior has not learned {language!r}; it has: {', '.join(self.languages) or 'none'}"
            )
        return self.languages.index(language)

    def forward(
        self,
        batch: int,
        condition: Condition | None,
        keep_speaker: Tensor | None = None,
        keep_language: Tensor | None = None,
    ) -> Tensor:
        """-> (B, C). ``keep_*`` (B,) bool say which items' conditions count; None: all of them."""
        condition = condition or Condition()
        who = self.no_speaker.expand(batch, -1)
        if condition.speaker is not None and self.speaker is not None:
            told = self.speaker(condition.speaker.to(self.no_speaker.dtype)).to(who.dtype)
            who = told if keep_speaker is None else torch.where(keep_speaker[:, None], told, who)
        unknown = len(self.languages)
        language = condition.language
        if language is None:
            language = torch.full((batch,), unknown, device=who.device)
        else:
            language = torch.where(language < 0, unknown, language)
        if keep_language is not None:
            language = torch.where(keep_language, language, unknown)
        return who + self.language[language]
