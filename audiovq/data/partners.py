"""Crops with a voice to convert them to: another speaker, and the crop moved to that speaker's register."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from audiovq.data.crops import CropDataset
from audiovq.data.perturb import reshape
from audiovq.data.utterance import SAMPLE_RATE
from audiovq.errors import AudioVQError
from audiovq.speech.pitch import median_pitch, semitones, track_pitch

log = logging.getLogger("audiovq")

_HEARD = 30 * SAMPLE_RATE  # of each speaker, to find their register
_ENOUGH = 300  # seconds of a partner: more of them do not make a voice be asked for more often
_FARTHEST = 14.0  # semitones; farther than this nobody sounds like speech any more
_SPREAD = 1.0  # semitones: registers of single sentences differ by so much


class PartneredCrops(Dataset[dict[str, Any]]):
    """The items of a `CropDataset`, a share of them with a partner: what a converter is asked for when it is used.

    Partners are those who speak for ``least_seconds`` or more (or everybody, where fewer than two do): of whom there is
    little, it is hard to tell whether it is them. They are asked for in proportion to the square root of their seconds,
    five minutes and more counting alike.

    Besides the crop's own keys each item has ``source (1, crop_samples)``, the crop in the partner's register, with its
    timing, formants and melody kept; ``voice (1, other_samples)``, speech of the partner; and ``wanted``, the partner's
    index, or -1 (and zeros) where there is none. Item i is decided by ``(seed, i)`` alone. Where the crops have virtual
    voices, so have partners: ``virtual`` tells which items' partner is one.

    Args:
        crops: whose items are taken.
        share: of the items that get a partner, evenly spread.
        least_seconds: of speech, from which on a speaker is a partner.
        without: names of speakers who are never partners (to choose settings by how well these, unknown as targets,
            are converted to).

    Raises:
        AudioVQError: ``without`` names a speaker who is not there.
    """

    def __init__(
        self, crops: CropDataset, share: float, least_seconds: float = _ENOUGH, without: Sequence[str] = ()
    ) -> None:
        if strangers := set(without) - set(crops.speakers):
            raise AudioVQError(f"no such speaker to leave out of the partners: {', '.join(sorted(strangers))}")
        self.crops, self.share = crops, share
        self.speakers = crops.speakers
        self.registers = [_register(tape) for tape in crops.tapes]
        known = [i for i, register in enumerate(self.registers) if register and self.speakers[i] not in without]
        seconds = {i: crops.tapes[i].n_samples / SAMPLE_RATE for i in known}
        long = [i for i in known if seconds[i] >= least_seconds]
        self.partners = long if len(long) > 1 else known
        self.weights = np.sqrt([min(seconds[i], _ENOUGH) for i in self.partners])
        log.info("%d of %d speakers are partners to convert to", len(self.partners), len(self.speakers))

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = self.crops[index]
        chosen = int((index + 1) * self.share) > int(index * self.share)
        changed, virtual = None, self.crops.virtual
        if virtual is not None:
            changed = virtual.draw(np.random.default_rng((self.crops.seed, index, 4)))
        speeds = (item.get("speed") or 1.0, 1.0 if changed is None else changed.speed)
        partner = self.partner(index, item["speaker"], speeds[1] / speeds[0]) if chosen else None
        if partner is None:
            return item | {
                "source": torch.zeros_like(item["waveform"]),
                "voice": torch.zeros_like(item["other"]),
                "wanted": -1,
                "virtual": False,
            }
        wanted, interval, place = partner
        n = self.crops.other_samples
        length = min(n if changed is None else changed.length(n), self.crops.tapes[wanted].n_samples)
        voice = np.resize(self.crops.read(wanted, (place, length), n, changed), n)
        samples = item["waveform"][0].numpy()
        moved = reshape(samples, interval, 1.0)
        moved *= np.sqrt(np.mean(np.square(samples))) / max(np.sqrt(np.mean(np.square(moved))), 1e-9)
        return item | {
            "source": torch.from_numpy(moved[None].astype(np.float32)),
            "voice": torch.from_numpy(voice[None]),
            "wanted": wanted,
            "virtual": changed is not None,
        }

    def partner(self, index: int, speaker: int, speed: float = 1.0) -> tuple[int, float, int] | None:
        """Another speaker, semitones to their register, and a place on their tape; None where a register is unknown.

        ``speed`` is how much faster the partner is played than the speaker.
        """
        rng = np.random.default_rng((self.crops.seed, index, 2))
        drawn, place, spread = rng.random(), int(rng.integers(1 << 40)), float(rng.normal(0, _SPREAD))
        own, weights = self.registers[speaker], np.where(np.equal(self.partners, speaker), 0.0, self.weights)
        if own is None or not weights.any():
            return None
        ladder = np.cumsum(weights)
        wanted = self.partners[int(np.searchsorted(ladder, drawn * ladder[-1], side="right"))]
        theirs = self.registers[wanted]
        assert theirs is not None
        interval = float(np.clip(semitones(speed * theirs / own) + spread, -_FARTHEST, _FARTHEST))
        return wanted, interval, place % self.crops.tapes[wanted].n_samples


def _register(tape: Any) -> float | None:
    return median_pitch(track_pitch(tape.read(0, min(_HEARD, tape.n_samples)), SAMPLE_RATE))
