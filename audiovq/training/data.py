"""Crops of speech for training and validation."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from torch.utils.data import Dataset, Subset

from audiovq.data.corpora import open_corpora
from audiovq.data.crops import CropDataset
from audiovq.data.teacher import TeacherFeatures, teacher_features
from audiovq.data.utterance import SAMPLE_RATE, Utterance
from audiovq.errors import AudioVQError
from audiovq.speech.codec import SpeechCodec

log = logging.getLogger("audiovq")


def crop_samples(codec: SpeechCodec, seconds: float) -> int:
    """Samples of a crop of whole frames."""
    return max(round(seconds * codec.sample_rate / codec.hop_length), 1) * codec.hop_length


def speech_crops(
    codec: SpeechCodec,
    corpora: Sequence[Any],
    crop_seconds: float,
    other_seconds: float,
    validation_items: int,
    seed: int,
    with_teacher: bool = False,
    language_weights: Mapping[str, float] | None = None,
) -> tuple[CropDataset, Dataset]:
    """Training crops at random levels, and validation crops twice as long that never change.

    Args:
        codec: what they are for.
        corpora: see `audiovq.data.corpora`.
        crop_seconds: of a training crop, rounded to whole frames.
        other_seconds: of the stretch for the speaker encoder.
        with_teacher: with features of a recogniser, see `audiovq.data.teacher`.
        language_weights: see `CropDataset`.

    Raises:
        AudioVQError: when there is no data, more speakers than the codec's table has rows, or the codec is made for
            another sample rate than data are read at.
    """
    if codec.sample_rate != SAMPLE_RATE:
        raise AudioVQError(f"recordings are read at {SAMPLE_RATE} Hz: set sample_rate={SAMPLE_RATE}")
    train, validation = (open_corpora(corpora, split) for split in ("train", "validation"))
    crop, other = crop_samples(codec, crop_seconds), round(other_seconds * codec.sample_rate)
    crops = CropDataset(
        train,
        crop,
        other,
        seed=seed,
        gain_db=(-12.0, 6.0),
        teacher=_teacher(train) if with_teacher else None,
        language_weights=language_weights,
    )
    if codec.has_speaker_table and len(crops.speakers) > codec.speaker_encoder.levels:
        raise AudioVQError(
            f"the data has {len(crops.speakers)} speakers, the model's table {codec.speaker_encoder.levels} rows: "
            "set model.speaker_encoder.n_speakers"
        )
    teacher = _teacher(validation, fitted_on=train) if with_teacher else None
    fixed = CropDataset(validation, 2 * crop, other, seed=0, teacher=teacher)
    return crops, Subset(fixed, range(validation_items))


def _teacher(utterances: Sequence[Utterance], fitted_on: Sequence[Utterance] | None = None) -> TeacherFeatures | None:
    if not utterances:
        return None
    shown = 0

    def report(done: int, total: int) -> None:
        nonlocal shown
        if done == total or done * 20 // total > shown:
            shown = done * 20 // total
            log.info("the teacher has processed %d of %d minutes", done // 960_000, total // 960_000)

    return teacher_features(utterances, report, fitted_on)
