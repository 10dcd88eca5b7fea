"""Priors and entropy models trained from a pack: codes travel, codec and corpora do not."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("hydra")

from omegaconf import OmegaConf

from audiovq.bitstream.entropy_model import load_entropy_model
from audiovq.prior.speech import load_prior
from audiovq.training import packing
from audiovq.training.offline import train_from_pack
from audiovq.training.packing import PackOptions, write_pack
from audiovq.training.run import compose, train
from tests.training.test_entropy import cache_of

SETTINGS = {
    "prior": [
        "prior.width=16",
        "prior.backbone={kind: transformer, n_layers: 1, n_heads: 2, n_groups: 1, window: 10, dropout: 0.0}",
        "prior.depth={depth_width: 8, hidden: 16, n_layers: 1}",
        "prior.embedding_dim=8",
        "task.crop_seconds=0.5",
    ],
    "entropy": ["task.network.width=8", "task.network.hidden=8"],
}


@pytest.mark.parametrize("experiment", sorted(SETTINGS))
def test_a_sitting_on_codes_is_gone_on_from_here(experiment, tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "download_wheels", lambda *_: [])
    codes = cache_of(tmp_path / "codes", n=3).folder
    plan = ["training.max_steps=4", "training.batch_size=2", "training.device=cpu", "training.precision=float32"]
    settings = [f"experiment={experiment}", *SETTINGS[experiment], *plan, f"task.codes={codes}"]

    def config(*more):
        return compose([*settings, f"run_dir={tmp_path / 'run'}", *more])

    write_pack(OmegaConf.to_container(config()), tmp_path / "pack", PackOptions())
    codes.rename(tmp_path / "away")
    train_from_pack(tmp_path / "pack", tmp_path / "out", 5.0, tmp_path / "work")
    assert "done: step 4" in (tmp_path / "out" / "train.log").read_text()
    (tmp_path / "away").rename(codes)
    # All steps are done: what is left is the export.
    folder = train(config(f"training.resume_from={tmp_path / 'out'}"))
    assert json.loads((folder / "latest" / "training.json").read_text())["step"] == 4
    if experiment == "prior":
        prior, speakers = load_prior(folder / "latest")
        assert prior.sizes == (177, 32, 32, 32)
        assert speakers.loudness is not None
    else:
        assert load_entropy_model(folder / "latest", bytes.fromhex("01020304")) is not None
