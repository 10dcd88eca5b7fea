"""Weights of the pitch code (audiovq/bitstream/entropy.py) from the training labels: prints them."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np

from audiovq.bitstream.speech_layout import REACH, encode_pitch, predicted
from audiovq.data.packed import open_packed

train, validation = open_packed()
assert train.pitch is not None
labels = np.maximum(train.pitch.numpy(), 0).astype(int)
voicing, steps, onsets, first = Counter(), Counter(), Counter(), Counter()
for start, frames in zip(train.start, train.frames, strict=True):
    last = before = 0
    track = labels[start : start + frames]
    for i, (a, b) in enumerate(pairwise(track)):
        voicing[a > 0, b > 0] += 1
        before, last = (track[i - 1] if i else 0), a or last
        if a and b:
            steps[int(np.clip(b - predicted(int(before), int(a)), -REACH, REACH))] += 1
        elif b and last:
            onsets[int(np.clip(b - last, -REACH, REACH))] += 1
        elif b:
            first[(b - 1) // 16] += 1


def table(counts: Counter, keys: range) -> list[int]:
    total = sum(counts.values())
    return [max(round(4096 * counts[key] / total), 1) for key in keys]


print("BEGINS =", round(4096 * voicing[False, True] / (voicing[False, True] + voicing[False, False])))
print("ENDS =", round(4096 * voicing[True, False] / (voicing[True, False] + voicing[True, True])))
print("STEPS =", table(steps, range(-REACH, REACH + 1)))
print("ONSETS =", table(onsets, range(-REACH, REACH + 1)))
print("FIRST =", table(first, range(11)))

# The rate of the tables that are in use, on validation labels in packets of four seconds.
assert validation.pitch is not None
track = np.maximum(validation.pitch.numpy(), 0).astype(np.int64)
packets = [track[i : i + 200] for i in range(0, len(track) - 199, 200)]
n_bytes = sum(len(encode_pitch(packet[None])) for packet in packets)
print(f"# tables in use: {8 * n_bytes / (4 * len(packets)):.1f} b/s")
