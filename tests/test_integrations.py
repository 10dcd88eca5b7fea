"""Other libraries: what the documents show runs, and files in their formats are as they read them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from audiovq.data import TokenShards
from audiovq.hub import BUNDLED
from tests.data.tokenizing import make_corpus, save_model, tokenize

yaml = pytest.importorskip("yaml")
ROOT = Path(__file__).resolve().parent.parent
MIMI, DATASETS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "integrations.md").read_text(), flags=re.S)


def test_the_example_for_mimis_users_runs(tmp_path, monkeypatch):
    folder = save_model(tmp_path / "model")
    (tmp_path / "recipes" / "demo").mkdir(parents=True)
    shutil.copy(ROOT / "recipes" / "demo" / "speech.flac", tmp_path / "recipes" / "demo")
    monkeypatch.chdir(tmp_path)
    names = {"folder": folder}
    exec(compile(MIMI, "integrations.md", "exec"), names)
    assert names["audio_values"].shape == names["inputs"]["input_values"].shape


def test_datasets_streams_the_shards(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    pytest.importorskip("datasets")
    tokenize(make_corpus(tmp_path / "in"), tmp_path / "shards", save_model(tmp_path / "model"))
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(DATASETS, "integrations.md", "exec"), names)
    samples = {sample["json"]["id"]: sample["codes.npy"] for sample in names["shards"]}
    items = list(TokenShards(tmp_path / "shards"))
    assert sorted(samples) == sorted(item.id for item in items)
    for item in items:
        assert item.codes.tolist() == [list(row) for row in samples[item.id]]


def test_versas_configuration_is_a_list_of_metrics():
    metrics = yaml.safe_load((ROOT / "recipes" / "versa" / "speech_16k.yaml").read_text())
    names = [metric["name"] for metric in metrics]
    assert len(names) == len(set(names)) >= 5
    predictors = next(metric for metric in metrics if metric["name"] == "pseudo_mos")
    assert set(predictors["predictor_types"]) == set(predictors["predictor_args"])


@pytest.mark.parametrize("path", sorted(BUNDLED.rglob("README.md")), ids=lambda path: path.parent.name)
def test_cards_begin_as_model_hubs_read_them(path):
    _, head, text = path.read_text().split("---\n", 2)
    about = yaml.safe_load(head)
    assert {"license", "library_name", "pipeline_tag", "tags"} <= set(about)
    assert all(isinstance(word, str) for word in about["tags"] + about.get("language", []))
    assert text.lstrip().startswith("# ")
