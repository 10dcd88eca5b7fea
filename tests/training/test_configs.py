"""The tree of configurations: every experiment composes, and the tree stays small and flat."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("hydra")

from audiovq.errors import AudioVQError
from audiovq.training.run import compose, find_configs

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
EXPERIMENTS = sorted(path.stem for path in (CONFIGS / "experiment").glob("*.yaml"))


def bases(name: str) -> list[str]:
    """Experiments in the defaults list of an experiment."""
    from omegaconf import OmegaConf

    defaults = OmegaConf.load(CONFIGS / "experiment" / f"{name}.yaml").get("defaults", [])
    return [entry for entry in defaults if isinstance(entry, str) and entry != "_self_"]


def compose_experiment(name: str):
    """The configuration, with DIR for each setting that has no default."""
    overrides = [f"experiment={name}"]
    while True:
        try:
            return compose(overrides)
        except AudioVQError as error:
            missing = re.match(r"(\S+) is not set", str(error))
            if not missing:
                raise
            overrides.append(f"{missing[1]}=DIR")


def depth(name: str) -> int:
    return 1 + max(map(depth, bases(name)), default=0)


def test_the_tree_of_a_clone_is_the_default():
    assert find_configs() == CONFIGS


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_composes(name):
    config = compose_experiment(name)
    assert config.name
    assert config.task._target_.startswith("audiovq.training.")
    assert config.training.max_steps or config.training.minutes


def test_the_tree_is_small_and_flat():
    assert len(list(CONFIGS.rglob("*.yaml"))) <= 45
    assert {name: depth(name) for name in EXPERIMENTS if depth(name) > 2} == {}


def test_no_configuration_names_the_folder_of_a_run():
    """Which run begins from which is stated in the Makefile and the recipes alone."""
    for path in CONFIGS.rglob("*.yaml"):
        settings = re.sub(r"#.*", "", path.read_text())
        assert "runs/" not in settings, path


def test_the_sample_rate_stands_in_one_place():
    lines = [
        (path.name, line.partition("#")[0].strip())
        for path in sorted(CONFIGS.rglob("*.yaml"))
        for line in path.read_text().splitlines()
        if re.match(r"\s*sample_rate:", line)
    ]
    assert [name for name, line in lines if line != "sample_rate: ${sample_rate}"] == ["train.yaml"]
    assert compose(["experiment=speech", "training.init_from=DIR", "sample_rate=24000"]).model.sample_rate == 24000


def test_the_speech_model_does_not_begin_from_random_weights_unless_asked_to():
    assert compose(["experiment=speech"]).training.init_from == "speech"
    assert compose(["experiment=speech", "training.init_from={pitch: a}"]).training.init_from == {"pitch": "a"}
    assert compose(["experiment=speech", "training.init_from=null"]).training.init_from is None
