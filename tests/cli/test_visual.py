"""encode, decode and info on images and videos."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file

from audiovq.bitstream.visual_file import inspect_visual
from audiovq.cli import main
from audiovq.cli.generate import parse_actions
from audiovq.image import ImageCodec
from audiovq.video import LatentDynamics, VideoModel


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    level = {"stride": 4, "latent_dim": 6, "quantizer": {"codebook_size": 16}}
    ImageCodec([level], channels=16, residual=8, n_residual=1, name="tiny").eval().save(folder)
    return str(folder)


@pytest.fixture
def files(tmp_path):
    random = np.random.default_rng(0)
    images = [Image.fromarray(random.integers(0, 256, (9, 14, 3), dtype=np.uint8)) for _ in range(3)]
    images[0].save(tmp_path / "a.png")
    images[0].save(tmp_path / "b.gif", save_all=True, append_images=images[1:], duration=50)
    return tmp_path


def test_images_and_videos_there_and_back(model, files, capsys):
    assert main(["encode", str(files / "a.png"), str(files / "b.gif"), "--model", model]) == 0
    assert "14x9, 3 frames" in capsys.readouterr().err
    (files / "a.png").unlink(), (files / "b.gif").unlink()
    assert main(["decode", str(files / "a.avq"), str(files / "b.avq"), "--model", model]) == 0
    with Image.open(files / "a.png") as image:
        assert image.size == (14, 9)
    with Image.open(files / "b.gif") as image:  # frames that are alike have become one
        times = [image.seek(i) or image.info["duration"] for i in range(image.n_frames)]
        assert (image.size, sum(times)) == ((14, 9), 150)


def test_folders_are_mirrored(model, files):
    assert main(["encode", str(files), "-o", str(files / "out"), "--model", model]) == 0
    assert {path.name for path in (files / "out").iterdir()} == {"a.avq", "b.avq"}
    assert main(["decode", str(files / "out"), "-o", str(files / "back"), "--model", model]) == 0
    assert {path.name for path in (files / "back").iterdir()} == {"a.png", "b.gif"}


def test_info_describes_images(model, files, capsys):
    main(["encode", str(files / "a.png"), "--model", model])
    capsys.readouterr()
    assert main(["info", str(files / "a.avq"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["media"], found["width"], found["height"], found["levels"]) == ("image", 14, 9, [[1, 4, 1, 3, 4]])
    assert main(["info", str(files / "a.avq")]) == 0
    assert "intact: all checksums match" in capsys.readouterr().out


def test_damage_is_told_and_leaves_nothing(model, files, capsys):
    main(["encode", str(files / "b.gif"), "--model", model])
    data = (files / "b.avq").read_bytes()
    (files / "b.avq").write_bytes(data[:-3])
    capsys.readouterr()
    assert main(["info", str(files / "b.avq")]) == 1
    assert main(["decode", str(files / "b.avq"), "-o", str(files / "new.gif"), "--model", model]) == 1
    captured = capsys.readouterr()
    assert captured.err.count("cut off") == 2
    assert not (files / "new.gif").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["encode", "{a}", "{sound}"], "is an image or a video; give them to separate calls"),
        (["encode", "{a}", "-o", "{a}", "-f"], "encode writes .avq files, not .png"),
        (["encode", "{missing}"], "no such file"),
        (["encode", "{text}"], "is not an image"),
        (["decode", "{coded}", "-o", "{sound}.wav"], "images are written as .png"),
        (["decode", "{coded}"], "a.png exists; -f overwrites it"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line(model, files, capsys, arguments, told):
    (files / "sound.wav").write_bytes(b"RIFF")
    (files / "text.png").write_text("no image")
    main(["encode", str(files / "a.png"), "-o", str(files / "a.avq"), "--model", model])
    capsys.readouterr()
    names = {"a": "a.png", "sound": "sound.wav", "missing": "none.png", "text": "text.png", "coded": "a.avq"}
    filled = [a.format(**{key: str(files / name) for key, name in names.items()}) for a in arguments]
    assert main([*filled, "--model", model]) == 1
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def test_a_file_of_an_unknown_model_says_so(model, files, capsys):
    main(["encode", str(files / "a.png"), "--model", model])
    assert main(["decode", str(files / "a.avq"), "-o", str(files / "b.png")]) == 1
    assert "is not bundled with audiovq" in capsys.readouterr().err


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A video model, untrained, with beginnings."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("world")
    level = {"stride": 4, "latent_dim": 6, "quantizer": {"codebook_size": 16}}
    ImageCodec([level], channels=16, residual=8, n_residual=1).eval().save(folder / "frames")
    codec = ImageCodec.from_pretrained(folder / "frames")
    dynamics = LatentDynamics(16, 6, stem=8, fine=16, coarse=16, n_fine=1, n_coarse=1, codec=codec.model_hash.hex())
    VideoModel(codec, dynamics).save(folder)
    codes = np.random.default_rng(0).integers(0, 16, (2, 6, 3, 4), dtype=np.uint16)
    starts = {"codes": codes, "actions": np.zeros((2, 5, 5), np.uint8), "size": np.array([12, 14])}
    save_file(starts, folder / "starts.safetensors")
    return str(folder)


def test_video_goes_on_from_beginnings_and_prompts(world, files, tmp_path):
    how = ["generate", "video", "--model", world, "--seconds", "0.5", "-n", "2"]
    assert main([*how, "-o", str(tmp_path / "out"), "--format", "both", "--actions", "turn_left*3,move_forward"]) == 0
    info = inspect_visual(tmp_path / "out" / "sample-02.avq")
    assert (info.media, info.frames, info.width, info.height) == ("video", 6 + 9, 14, 12)
    assert main(["decode", str(tmp_path / "out" / "sample-02.avq"), "--model", world + "/frames", "-f"]) == 0
    six = [Image.fromarray(np.full((12, 16, 3), 40 * i, np.uint8)) for i in range(6)]
    six[0].save(files / "six.gif", save_all=True, append_images=six[1:], duration=50)
    again = ["-o", str(tmp_path / "more"), "--mode", "sample", "--prompt", str(files / "six.gif")]
    assert main([*how, *again]) == 0
    first = [(tmp_path / "more" / f"sample-0{i}.gif").read_bytes() for i in (1, 2)]
    assert main([*how, *again, "-f"]) == 0
    assert first == [(tmp_path / "more" / f"sample-0{i}.gif").read_bytes() for i in (1, 2)]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--media", "smell"], "--media is one of"),
        (["video", "--actions", "jump"], "no button 'jump'"),
        (["video", "--actions", "turn_left*x"], "no number of frames"),
        (["video", "--mode", "guess"], "unknown mode 'guess'"),
        (["video", "--prompt", "{b}"], "has 3 frames"),
        (["video", "--prompt", "none.gif"], "no such file"),
        (["video", "--seconds", "0"], "--seconds is above 0"),
        (["video", "--format", "png"], "--format is gif, avq, both"),
        (["video", "--top-k", "3"], "No such option: --top-k"),
        (["image", "--speaker", "nobody"], "No such option: --speaker"),
        (["image", "--codebooks", "99"], "No such option: --codebooks"),
        (["image", "--seconds", "2"], "No such option: --seconds"),
    ],
)
def test_what_cannot_be_generated_is_told(world, files, capsys, arguments, told):
    filled = [a.format(b=files / "b.gif") for a in arguments]
    given = filled + (["--seconds", "0.2"] if "--seconds" not in filled and "image" not in filled else [])
    code = main(["generate", *given, "-o", str(files / "out"), "--model", world])
    assert code == (2 if "No such option" in told else 1)
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def test_seeds_do_not_overlap(world, tmp_path):
    """Sample 2 of a seed is not sample 1 of the next."""
    how = ["generate", "video", "--model", world, "--seconds", "2", "--mode", "sample"]
    samples = []
    for seed, n in ((0, 3), (1, 2), (2, 1)):
        out = tmp_path / str(seed)
        assert main([*how, "--seed", str(seed), "-n", str(n), "-o", str(out)]) == 0
        samples += [path.read_bytes() for path in sorted(out.iterdir())]
    assert len(set(samples)) == 6
    assert main([*how, "--seed", "0", "-n", "1", "-o", str(tmp_path / "again")]) == 0
    assert (tmp_path / "again" / "sample-01.gif").read_bytes() == samples[0]
    plans = {parse_actions("", 60, seed, i).tobytes() for seed in range(3) for i in range(3)}
    assert len(plans) == 9


def test_models_of_every_medium_are_listed(model, world, tmp_path, capsys, monkeypatch):
    (tmp_path / "images").mkdir()
    (tmp_path / "videos").mkdir()
    (tmp_path / "images" / "tiny").symlink_to(model)
    (tmp_path / "videos" / "world").symlink_to(world)
    monkeypatch.setattr("audiovq.hub.BUNDLED", tmp_path)
    assert main(["models", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out) if row["media"] != "speech"}
    assert {name: row["media"] for name, row in rows.items()} == {"tiny": "image", "world": "video"}
    assert rows["tiny"]["bits_per_pixel"] == 4 / 16
    assert rows["world"]["context_frames"] == 6
    assert main(["models"]) == 0
    told = capsys.readouterr().out
    assert "world (video): hash " in told
    assert "0.25 bits a pixel" in told
