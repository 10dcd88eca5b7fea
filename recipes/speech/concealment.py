"""The network by which a speech model conceals lost packets, written beside the model's weights.

python recipes/speech/concealment.py [--model DIR] [--minutes N] [--corpus NAME|DIR ...]

Runs after the model's codes are final, on those of the training split (missing ones are made first, and kept); five
minutes of one core. Prints mean square errors of latents in gaps of validation recordings, as shares
of their variance: of a straight line, as without the network, and of its predictions.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from audiovq import SpeechCodec
from audiovq.codec.concealment import CONTEXT, REACH, Frames, LatentPredictor, bridge
from audiovq.data.codes import cached_codes
from audiovq.data.utterance import CodedUtterance
from recipes.speech.codes import options_of

BOOKS = (1, 2, 4, 8)
BATCH = 512


def latents(codec: SpeechCodec, utterances: Sequence[CodedUtterance], books: Sequence[int]) -> list[np.ndarray]:
    """Latents (C, F) of each utterance, by numbers of codebooks in turn."""
    numbers = [min(books[i % len(books)], codec.n_codebooks) for i in range(len(utterances))]
    pairs = zip(utterances, numbers, strict=True)
    return [codec.codebooks.decode(np.asarray(utterance.codes[:n], np.int64)) for utterance, n in pairs]


class Gaps:
    """Frames that are lost, with what is known around them, drawn from recordings of coordinates (F, R)."""

    def __init__(self, recordings: Sequence[np.ndarray]) -> None:
        around = CONTEXT + REACH
        self.frames = torch.from_numpy(np.concatenate(recordings).astype(np.float32))
        ends = np.cumsum([len(one) for one in recordings])
        starts = ends - [len(one) for one in recordings]
        inner = [np.arange(a + around, b - around) for a, b in zip(starts, ends, strict=True)]
        self.places = torch.from_numpy(np.concatenate(inner))

    def draw(self, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs of the network, see `audiovq.codec.concealment.inputs_of`, and the lost frames (n, R)."""
        place = self.places[torch.randint(len(self.places), (n,))]
        # Short gaps are the most frequent; in some nothing has arrived on one of the sides, or little.
        length = (1 + torch.empty(n).exponential_(1 / 3).long()).clamp_max(2 * REACH)
        before = 1 + (torch.rand(n) * length).long()
        distance = torch.stack([before, length + 1 - before], dim=1)
        gone = torch.rand(n, 2) < torch.tensor([0.08, 0.3])
        gone[gone.all(1)] = False
        distance = torch.where(gone | (distance > REACH), 0, distance)
        there = torch.where(torch.rand(n, 2) < 0.2, torch.randint(1, CONTEXT + 1, (n, 2)), CONTEXT)
        step = torch.arange(CONTEXT)
        known = (distance > 0)[..., None] & (step < there[..., None])  # (n, 2, CONTEXT)
        offset = distance[..., None] + step
        sides = self.frames[place[:, None, None] + offset * torch.tensor([-1, 1])[:, None]] * known[..., None]
        rows = torch.cat([sides, known[..., None].float()], dim=3)
        places = distance[..., None] == torch.arange(1, REACH + 1)
        return torch.cat([rows.flatten(1), places.float().flatten(1)], dim=1), self.frames[place]


def fit(
    recordings: Sequence[np.ndarray], n_directions: int = 40, hidden: int = 256, steps: int = 12_000, seed: int = 0
) -> LatentPredictor:
    """Train the network on latents (C, F) of recordings."""
    torch.manual_seed(seed)
    whole = np.concatenate(recordings, axis=1)
    mean = whole.mean(axis=1)
    values, directions = np.linalg.eigh(np.cov(whole))
    scale = np.sqrt(values[::-1][:n_directions])
    basis = (directions[:, ::-1][:, :n_directions] * scale).astype(np.float32)
    plain = LatentPredictor(mean, basis, ())
    around = 2 * (CONTEXT + REACH)
    gaps = Gaps([plain.reduce(one) for one in recordings if one.shape[1] > around])
    size = 2 * CONTEXT * (n_directions + 1) + 2 * REACH
    network = nn.Sequential(
        nn.Linear(size, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, n_directions)
    )
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=0.02)
    weight = torch.from_numpy((values[::-1][:n_directions] / values[::-1][:n_directions].mean()).astype(np.float32))
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * (1 - step / steps)
        inputs, wanted = gaps.draw(BATCH)
        loss = ((network(inputs) - wanted).square() * weight).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    layers = [layer for layer in network if isinstance(layer, nn.Linear)]
    return LatentPredictor(
        mean, basis, tuple((layer.weight.detach().numpy(), layer.bias.detach().numpy()) for layer in layers)
    )


def errors(found: Sequence[np.ndarray], n_frames: int, predictor: LatentPredictor | None) -> float:
    """Mean square error of gaps of ``n_frames``, six frames or a packet as long known on each side, as a share of the
    variance."""
    missed, n_gaps, around = 0.0, 0, max(n_frames, CONTEXT)
    for whole in found:
        for start in range(0, whole.shape[1] - 2 * around - n_frames + 1, 3 * n_frames):
            part = whole[:, start : start + 2 * around + n_frames]
            before, gap, after = np.split(part, [around, around + n_frames], axis=1)
            sides = [Frames(x, np.zeros(around, np.int64), np.zeros(around, np.float32)) for x in (before, after)]
            filled = bridge(sides[0], sides[1], n_frames, 50.0, predictor).latents
            missed, n_gaps = missed + float(np.square(filled - gap).mean()), n_gaps + 1
    return missed / n_gaps / float(np.concatenate(found, axis=1).var(axis=1).mean())


def main() -> None:
    """Fit, measure, write."""
    torch.set_num_threads(1)
    codec, corpora = options_of(__doc__)
    cache = cached_codes(codec, corpora)
    predictor = fit(latents(codec, cache.split("train"), BOOKS))
    for n_codebooks in (2, 4, 8):
        validation = latents(codec, cache.split("validation"), [n_codebooks])
        for n_frames in (1, 3, 4, 6):
            line, predicted = (errors(validation, n_frames, p) for p in (None, predictor))
            print(f"{n_codebooks} codebooks, {20 * n_frames} ms: straight line {line:.2f}, predicted {predicted:.2f}")
    assert codec.folder is not None
    path = predictor.save(codec.folder, codec.model_hash)
    print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
