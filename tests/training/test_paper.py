"""Runs of the paper's VQ-VAE for speech on tiny corpora, packed and in a folder."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile
import torch

pytest.importorskip("hydra")

from omegaconf import OmegaConf

from audiovq.data.packed import PackedCorpus, open_packed
from audiovq.errors import AudioVQError
from audiovq.training import packing
from audiovq.training.offline import train_from_pack
from audiovq.training.packing import PackOptions, write_pack
from audiovq.training.run import compose, train
from audiovq.training.states import join
from audiovq.training.wavenet import PaperTask, SpeakerCrops, packed_folder
from audiovq.wavenet.paper import PaperVQVAE
from tests.training.runs import differences, step_of, unplugged_at
from tests.training.tiny_codec import utterances, write_packed

SETTINGS = {
    "model.encoder.channels": "[8,8,8,8,8,12]",
    "model.encoder.latent_dim": 6,
    "model.quantizer.codebook_size": 16,
    "model.decoder.stack": "{channels: 8, skip_channels: 8, n_layers: 4, dilation_cycle: 4, kernel_size: 2}",
    "model.decoder.channels": 8,
    "task.crop_frames": 5,
    "task.preview_seconds": 0.1,
    "training.max_steps": 6,
    "training.decay": 0.33,
    "training.warmup_steps": 2,
    "training.batch_size": 2,
    "training.validation_items": 2,
    "training.validate_every": 3,
    "training.checkpoint_every": 3,
    "training.log_every": 2,
    "training.device": "cpu",
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_packed(tmp_path_factory.mktemp("packed"))


def config_of(folder, *overrides, **changes):
    settings = {"run_dir": folder, **SETTINGS, **changes}
    return compose(["experiment=paper_vctk", *overrides, *(f"{key}={value}" for key, value in settings.items())])


def packed(corpus, folder, **changes):
    return config_of(folder, "data=packed", **{"task.corpus": corpus, **changes})


def test_a_resumed_run_equals_an_uninterrupted_one_and_exports_a_model(corpus, tmp_path):
    train(packed(corpus, tmp_path / "whole"))
    with unplugged_at(PaperTask, 4):
        train(packed(corpus, tmp_path / "parts"))
    assert step_of(tmp_path / "parts") == 3
    train(packed(corpus, tmp_path / "parts"))
    assert differences(tmp_path / "whole", tmp_path / "parts") == []
    model = PaperVQVAE.from_pretrained(tmp_path / "parts" / "latest")
    assert model.speakers == ["kokoro_speech/0", "kokoro_speech/1", "tones/0", "tones/1"]
    converted = model.convert(0.1 * torch.randn(1, 1, 1000), torch.tensor([model.number("tones/1")]))
    assert converted.shape == (1, 1, 1000)
    assert torch.isfinite(converted).all()


def test_training_learns(corpus, tmp_path):
    changes = {"training.max_steps": 60, "training.validate_every": 60, "training.checkpoint_every": 60}
    more = {"task.learning_rate": 5e-3, "task.average_decay": 0.9, "task.preview_items": 0}
    losses = []
    for steps in (1, 60):
        folder = train(packed(corpus, tmp_path / str(steps), **{**changes, **more, "training.max_steps": steps}))
        losses.append(json.loads((folder / "latest" / "training.json").read_text())["validation"]["loss"])
    assert losses[1] < losses[0] - 0.3


def test_crops_are_of_the_speaker_they_name(corpus):
    opened = PackedCorpus.open(corpus / "train")
    names = ["tones/1", "kokoro_speech/0"]
    crops = SpeakerCrops(opened, names, 5, seed=1)
    seen = set()
    for index in range(20):
        item = crops[index]
        assert item["waveform"].shape == (1, 1600)
        assert torch.equal(item["waveform"], crops[index]["waveform"])
        first, end = opened.spans[opened.speaker_names.index(names[item["speaker"]])]
        speech = opened.samples[first * 320 : end * 320].float() / 32768
        assert any(torch.equal(part, item["waveform"][0]) for part in speech.unfold(0, 1600, 320))
        seen.add(item["speaker"])
    assert seen == {0, 1}
    with pytest.raises(AudioVQError, match="none of the speakers"):
        SpeakerCrops(opened, ["somebody"], 5)


def test_other_corpora_are_packed_once(tmp_path, monkeypatch):
    for i, utterance in enumerate(utterances("folder", 60, False)):
        path = tmp_path / "speech" / f"speaker{i % 2}" / f"{i}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, utterance.load(), 16000)
    monkeypatch.setenv("AUDIOVQ_CACHE", str(tmp_path / "cache"))
    corpora = [{"name": "folder", "root": str(tmp_path / "speech")}]
    parts, _ = open_packed(packed_folder(corpora))
    assert parts.speaker_names == ["speech/speaker0", "speech/speaker1"]
    monkeypatch.setattr("audiovq.training.wavenet.pack", lambda *_: pytest.fail("packed again"))
    again, validation = open_packed(packed_folder(corpora))
    assert np.array_equal(again.start, parts.start)
    assert set(validation.ids).isdisjoint(again.ids)
    folder = train(config_of(tmp_path / "run", "data=folder", f"data.root={tmp_path}/speech"))
    assert PaperVQVAE.from_pretrained(folder / "latest").speakers == parts.speaker_names


def test_training_from_a_pack(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "download_wheels", lambda *_: [])
    config = OmegaConf.to_container(packed(corpus, tmp_path / "run", **{"training.max_steps": 2}))
    write_pack(config, tmp_path / "pack", PackOptions(audio="int16"))
    train_from_pack(tmp_path / "pack", tmp_path / "out", 5.0, tmp_path / "work")
    assert join(tmp_path / "out", tmp_path / "run") == 2
    # Here, the same command exports what is finished.
    folder = train(packed(corpus, tmp_path / "run", **{"training.max_steps": 2}))
    assert PaperVQVAE.from_pretrained(folder / "latest").number("tones/0") == 2


def test_what_does_not_fit_is_one_clear_error(corpus, tmp_path):
    with pytest.raises(AudioVQError, match="VCTK"):
        train(config_of(tmp_path / "run", f"data.root={tmp_path}"))
    with pytest.raises(AudioVQError, match="no packed corpus"):
        train(packed(tmp_path, tmp_path / "run"))
    with pytest.raises(AudioVQError, match="whole number of latents"):
        train(packed(corpus, tmp_path / "run", **{"task.crop_frames": 5, "model.encoder.strides": "[2,2,2,2,2,4]"}))
    with pytest.raises(AudioVQError, match="set sample_rate=16000"):
        train(packed(corpus, tmp_path / "run", sample_rate=24000))
