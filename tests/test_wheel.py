"""The wheel in an environment of its own, in an empty folder: it encodes, decodes, and trains."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from email.parser import Parser
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
PRETRAINED = "audiovq/pretrained"
LIMIT = 45e6


def run(*command: object, **options) -> str:
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy: building in the clone would leave files there that a later build would pick up."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for folder in ("audiovq", "configs"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    run(*pip, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "-w", target, source)
    (path,) = target.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Programs of an environment that has the wheel, and its dependencies from the environment of the tests."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python]
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel)
    own = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    others = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (own / "dependencies.pth").write_text("\n".join(sorted(others)) + "\n")
    return folder / "bin"


@pytest.fixture
def shell(installed, tmp_path):
    """Run a program of that environment in an empty folder, without the clone on the path."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}

    def call(program: str, *arguments: object) -> str:
        return run(installed / program, *arguments, cwd=tmp_path, env=environment)

    return call


def test_it_has_the_configurations_the_models_and_their_licences(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = Parser().parsestr(archive.read(next(n for n in names if n.endswith("/METADATA"))).decode())
    configs = {f"audiovq/{path.relative_to(ROOT)}" for path in (ROOT / "configs").rglob("*.yaml")}
    assert configs == {name for name in names if name.startswith("audiovq/configs/")}
    weights = {str(path.relative_to(ROOT)) for path in (ROOT / PRETRAINED).rglob("*") if path.is_file()}
    assert weights == {name for name in names if name.startswith(PRETRAINED + "/")}
    assert f"{PRETRAINED}/LICENSE-weights" in names
    for licence in ("LICENSE", f"{PRETRAINED}/LICENSE-weights"):
        assert licence in metadata.get_all("License-File")
        assert any(name.endswith(f".dist-info/licenses/{licence}") for name in names)
    assert metadata["License-Expression"] == "Apache-2.0 AND LicenseRef-audiovq-weights"
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"audiovq"}


def test_it_is_small_enough_for_an_index(wheel):
    assert wheel.stat().st_size < LIMIT


def test_it_encodes_and_decodes(shell, tmp_path):
    where = shell("python", "-c", "import audiovq; print(audiovq.__file__)")
    assert not Path(where.strip()).is_relative_to(ROOT)
    samples, rate = sf.read(ROOT / "recipes" / "demo" / "speech.flac", dtype="float32", frames=24000)
    sf.write(tmp_path / "speech.wav", samples, rate)
    shell("audiovq", "encode", "speech.wav", "-o", "speech.avq")
    shell("audiovq", "decode", "speech.avq", "-o", "back.wav")
    back, back_rate = sf.read(tmp_path / "back.wav", dtype="float32")
    assert (len(back), back_rate) == (len(samples), rate)
    assert np.abs(back).max() > 0.1 * np.abs(samples).max()


def test_it_trains(shell, tmp_path):
    generator = np.random.default_rng(0)
    for number in range(40):
        path = tmp_path / "images" / "noise" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
    settings = ["image.channels=8", "image.residual=8", "training.max_steps=2", "training.batch_size=2"]
    settings += ["training.validation_items=2", "training.device=cpu", "run_dir=run"]
    shell("audiovq", "train", "experiment=image", "data=images", "data.root=images", "data.size=16", *settings)
    assert (tmp_path / "run" / "latest" / "model.safetensors").is_file()
