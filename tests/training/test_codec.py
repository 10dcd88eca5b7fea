"""Training the speech codec and its pitch tracker on a made-up packed corpus."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("hydra")

from audiovq.codec.codec import SpeechCodec
from audiovq.data.packed import FRAME, PackedCorpus, pack, write_rows
from audiovq.data.utterance import Utterance
from audiovq.errors import AudioVQError
from audiovq.hub import codes_hash, save_weights
from audiovq.io import read_json
from audiovq.quantize.codebook import EMACodebook
from audiovq.training.codec import CodecTask, predictor_of
from audiovq.training.pitch import PitchTask
from audiovq.training.run import compose, make_task, train
from recipes.speech.concealment import fit
from tests.codec.tiny import make_codec
from tests.data.conftest import ArrayReader
from tests.training.runs import differences, state_of, step_of, unplugged_at

ROOT = Path(__file__).resolve().parents[2]

RUN = {
    "training.max_steps": 6,
    "training.batch_size": 2,
    "training.validate_every": 4,
    "training.checkpoint_every": 4,
    "training.log_every": 2,
}
SMALL = {"latent_dim": 8, "channels": [8, 8, 12], "strides": [1, 2, 2], "kernel_sizes": [1, 4, 4]}
PART = {**SMALL, "filterbank": {"n_filters": 8, "kernel_size": 320, "stride": 80}, "dilations": [[1], [1], [1]]}
START = {"init_after": 1, "init_batches": 1}
MODEL = {
    "model.encoder": {"content": PART, "detail": PART},
    "model.quantizer.n_codebooks": 3,
    "model.quantizer.codebook_size": 16,
    "model.quantizer.book_weights": [1, 1, 1],
    "model.quantizer.content": START,
    "model.quantizer.detail": START,
    "model.speaker_encoder": {"dim": 6, "channels": 8, "dilations": [1]},
    "model.decoder": {"channels": [12, 8, 8], "upsample": [2, 2], "dilations": [[1], [1], [1]]},
    "model.pitch": {"channels": 8, "dilations": [1]},
    "model.default_n_codebooks": 2,
    "task.crop_frames": 16,
    "task.other_frames": 20,
    "task.phase_from": 2,
    "task.gap_share": 0.5,
    "task.listener_items": 0,
    "task.adversarial_from": 0.4,
    "task.adversarial_samples": 3200,
    "task.discriminator.channels": 4,
    "task.compile": False,
    "task.slow": "null",
    "training.validate_every": 6,
    "training.minutes": "null",
    "training.init_from": "null",
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Tones of two speakers, and of two synthetic ones who say the same."""
    folder = tmp_path_factory.mktemp("packed")
    rng, time = np.random.default_rng(0), np.arange(24000) / 16000

    def utterance(corpus, speaker, take, group=None):
        phase = 2 * np.pi * (100 + 40 * speaker) * time * (1 + 0.02 * take)
        tone = sum(np.sin(k * phase) / k for k in range(1, 8)) * 0.1 + 0.01 * rng.standard_normal(len(time))
        samples = tone.astype(np.float32)
        return Utterance(
            id=f"{corpus}/{speaker}-{take}",
            speaker=f"{corpus}/{speaker}",
            language="en",
            text=None,
            source="made up",
            licence="none",
            split="train",
            seconds=len(samples) / 16000,
            reader=ArrayReader(samples),
            group=group,
        )

    for split in ("train", "validation"):
        items = [utterance("tones", speaker, take) for speaker in range(2) for take in range(2)]
        items += [utterance("kokoro_speech", speaker, 0, "same") for speaker in range(2)]
        pack(items, folder / split)
        packed = PackedCorpus.open(folder / split)
        labels = [np.full(frames, 60, np.int16) for frames in packed.frames]
        write_rows(folder / split, "pitch", packed.ids, labels)
        assert len(packed.samples) % FRAME == 0
    return folder


def overrides(experiment, corpus, folder, settings, **changes):
    merged = {**RUN, **settings, "task.corpus": corpus, "run_dir": folder, **changes}
    written = [f"{key}={json.dumps(v) if isinstance(v, dict | list) else v}" for key, v in merged.items()]
    return [f"experiment={experiment}", *(item.replace('"', "") for item in written)]


def config(*arguments, **changes):
    return compose(overrides(*arguments, **changes))


def test_a_resumed_codec_run_equals_an_uninterrupted_one(corpus, tmp_path):
    """Through the start of the codebooks, discriminators, pairs and augmentations; then it is exported and read."""
    train(config("speech", corpus, tmp_path / "whole", MODEL))
    parts = config("speech", corpus, tmp_path / "parts", MODEL)
    with unplugged_at(CodecTask, 5):
        train(parts)
    assert step_of(tmp_path / "parts") == 4
    train(parts)
    assert differences(tmp_path / "whole", tmp_path / "parts") == []
    exported = read_json(tmp_path / "whole" / "latest" / "config.json")
    assert exported["quantizer"]["n_codebooks"] == 3
    SpeechCodec(**exported)


def test_training_brings_decoded_speech_closer(corpus, tmp_path):
    fast = {"training.max_steps": 40, "training.warmup_steps": 5, "training.decay": 0.2}
    fast |= {"task.learning_rate": 3e-3, "task.average_decay": 0.9}
    task = make_task(config("speech", corpus, tmp_path, MODEL, **fast))
    before = task.validate()["loss"]
    folder = train(config("speech", corpus, tmp_path, MODEL, **fast))
    after = json.loads((folder / "latest" / "training.json").read_text())["validation"]["loss"]
    assert after < 0.8 * before


def test_a_run_from_weights_starts_with_statistics_that_fit_them(corpus, tmp_path):
    """Stale sums would overwrite every codebook vector in the first step."""
    first = config("speech", corpus, tmp_path / "first", MODEL)
    train(first)
    task = make_task(config("speech", corpus, tmp_path / "second", MODEL))
    task.begin_from(str(tmp_path / "first" / "latest"))
    codebooks = [module for module in task.model.modules() if isinstance(module, EMACodebook)]
    assert len(codebooks) == 3
    before = [codebook.vectors.clone() for codebook in codebooks]
    for codebook, vectors in zip(codebooks, before, strict=True):
        codebook.refresh()
        torch.testing.assert_close(codebook.vectors, vectors, rtol=1e-3, atol=1e-5)


def test_a_deeper_decoder_starts_from_what_a_shallower_one_has_learned(corpus, tmp_path):
    train(config("speech", corpus, tmp_path / "first", MODEL))
    dilations = read_json(tmp_path / "first" / "latest" / "config.json")["decoder"]["dilations"]
    deeper = {"model.decoder.dilations": [[*stage, 1] for stage in dilations]}
    models = []
    for name, changes in (("same", {}), ("deeper", deeper)):
        task = make_task(config("speech", corpus, tmp_path / name, MODEL, **changes))
        task.begin_from(str(tmp_path / "first" / "latest"))
        models.append(task.model.eval())
    latents, pitch = torch.randn(1, models[0].encoder.latent_dim, 20), torch.full((1, 20), 40)
    condition = torch.randn(1, models[0].speaker_encoder.dim)
    same, deep = (model.decoder(latents, pitch, condition, torch.tensor([3])) for model in models)
    assert len(models[1].state_dict()) > len(models[0].state_dict())
    torch.testing.assert_close(same, deep)


def test_a_run_begins_from_weights_in_8_bits(corpus, tmp_path):
    """As bundled models have them."""
    task = make_task(config("speech", corpus, tmp_path, MODEL))
    save_weights(task.model, tmp_path / "8", torch.int8)
    other = make_task(config("speech", corpus, tmp_path, MODEL, seed=9))
    other.begin_from(str(tmp_path / "8"))
    for name, weight in task.model.named_parameters():
        found = other.model.get_parameter(name)
        assert (found - weight).abs().max() <= weight.abs().max() / 100 + 1e-3, name


def test_two_processes_train_the_codec(corpus, tmp_path):
    """Through steps in which their items have other numbers of codebooks and other conversions."""
    arguments = overrides("speech", corpus, tmp_path / "run", MODEL, **{"model.quantizer.book_weights": [1, 0.1, 0.1]})
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "audiovq"]
    done = subprocess.run(
        [*start, "train", "--config-dir", str(ROOT / "configs"), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert step_of(tmp_path / "run") == 6
    assert all(tensor.isfinite().all() for tensor in state_of(tmp_path / "run").values() if tensor.is_floating_point())


def test_the_codec_previews_what_it_decodes(corpus, tmp_path):
    task = make_task(config("speech", corpus, tmp_path, MODEL))
    task.validate()
    added = []

    class Writer:
        def add_audio(self, name, samples, step, rate):
            added.append((name, tuple(samples.shape), step, rate))

        def add_figure(self, name, figure, step):
            added.append((name, len(figure.axes), step))

    with torch.no_grad():
        task.preview(Writer(), 7)
    length = 2 * 16 * FRAME
    assert added[:3] == [
        ("reference/0", (1, length), 7, 16000),
        ("decoded/0", (1, length), 7, 16000),
        ("spectrogram/0", 2, 7),
    ]


def test_another_sample_rate_than_the_datas_is_refused(corpus, tmp_path):
    with pytest.raises(AudioVQError, match="set sample_rate=16000"):
        make_task(config("speech", corpus, tmp_path, MODEL, sample_rate=24000))


def test_the_state_keeps_its_names(corpus, tmp_path):
    """Checkpoints and codecs of earlier runs are read by these."""
    task = make_task(config("speech", corpus, tmp_path, MODEL))
    parts = {name.partition(".")[0] for name in task.state_dict()}
    assert parts == {"model", "average", "discriminator", "teacher", "loudness", "speaker_means"}
    assert set(task.optimizers) == {"model", "discriminator"}


def test_a_resumed_pitch_run_equals_an_uninterrupted_one(corpus, tmp_path):
    small = {"task.pitch": {"channels": 8, "dilations": [1]}, "task.crop_frames": 16}
    train(config("pitch_tracker", corpus, tmp_path / "whole", small))
    with unplugged_at(PitchTask, 5):
        train(config("pitch_tracker", corpus, tmp_path / "parts", small))
    train(config("pitch_tracker", corpus, tmp_path / "parts", small))
    assert step_of(tmp_path / "parts") == 6
    assert differences(tmp_path / "whole", tmp_path / "parts") == []


def test_gaps_are_filled_by_what_predicts_a_models_latents_where_they_are_there(tmp_path):
    codec = make_codec()
    save_weights(codec, tmp_path)
    with pytest.raises(AudioVQError, match=r"has no concealment\.safetensors of its codes"):
        predictor_of(str(tmp_path))
    latents = np.random.default_rng(0).normal(size=(codec.encoder.latent_dim, 60)).astype(np.float32)
    fit([latents], n_directions=4, hidden=4, steps=1).save(tmp_path, codes_hash(tmp_path))
    assert predictor_of(str(tmp_path))(latents, None, 2).shape == (codec.encoder.latent_dim, 2)
