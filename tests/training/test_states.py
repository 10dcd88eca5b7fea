"""Training states in small files: as exact as there is room for, and a complete set survives any interruption."""

from __future__ import annotations

import os

import pytest
import torch

from audiovq.errors import AudioVQError
from audiovq.training import states
from audiovq.training.states import Limits, decode_state, encode_state, read_set, round_state, write_set


def state(seed=0):
    """Weights, averages near them, codebook buffers and Adam's moments."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in {"a": (64, 32, 3), "b": (128, 64), "bias": (64,)}.items():
        weight = torch.randn(shape, generator=generator) * 0.1
        tensors[f"model.{name}"] = weight
        tensors[f"average.{name}"] = weight + 0.001 * torch.randn(shape, generator=generator)
        tensors[f"optimizer/model/{name}/exp_avg"] = 1e-3 * torch.randn(shape, generator=generator)
        tensors[f"optimizer/model/{name}/exp_avg_sq"] = (torch.randn(shape, generator=generator) * 3).exp() * 1e-9
        tensors[f"optimizer/model/{name}/step"] = torch.tensor(12.0)
    frozen = torch.randn(40, 40, generator=generator)
    steps = torch.tensor(123456789)
    return tensors | {"model.f": frozen, "average.f": frozen.clone(), "model.n": steps, "average.n": steps.clone()}


def size(tensors):
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def test_exact_where_there_is_room():
    tensors = state()
    back = decode_state(encode_state(tensors, Limits()))
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize(
    ("level", "share", "model", "average", "moment"),
    [(1, 0.6, 0.0, 1e-3, 4e-3), (2, 0.4, 1e-5, 1e-3, 0.05), (3, 0.34, 5e-5, 1e-3, 0.05)],
)
def test_rounding_by_level(level, share, model, average, moment):
    tensors = state()
    stored, how = round_state(tensors, level)
    assert size(stored) < share * size(tensors)
    back = states.restore_state(stored, how)
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert back[name].shape == tensor.shape
        if not tensor.is_floating_point() or tensor.numel() < 100:
            assert torch.equal(back[name], tensor)
            continue
        bound = moment if "exp_avg" in name else average if name.startswith("average") else model
        assert (back[name] - tensor).norm() <= bound * tensor.norm(), name
    assert torch.equal(back["average.f"], back["model.f"])
    # An average is as exact as its distance from the weights, not as the weights themselves.
    for name in ("a", "b"):
        gap = tensors[f"average.{name}"] - tensors[f"model.{name}"]
        assert (back[f"average.{name}"] - back[f"model.{name}"] - gap).norm() < 0.02 * gap.norm()


def test_second_moments_never_become_zero_or_much_too_small():
    moments = torch.logspace(-14, -2, 4096).view(4, 1024)
    moments[0, :7] = 0
    back = states.logarithmic_decode(states.logarithmic_encode(moments), [4, 1024])
    assert torch.equal(back == 0, moments == 0)
    known = moments > 0
    assert (torch.log(back[known]) - torch.log(moments[known])).abs().max() < 0.06


def test_numbers_of_all_sizes_in_24_bits():
    values = torch.cat([torch.logspace(-30, 30, 999), -torch.logspace(-30, 30, 999), torch.zeros(3)])
    back = states.trimmed_decode(states.trimmed_encode(values), [2001])
    assert ((back - values).abs() <= values.abs() * 2**-16).all()


def test_limits_are_obeyed_or_refused():
    limits = Limits(file_bytes=300_000, total_bytes=350_000, files=3)
    data = encode_state({f"model.{i}": torch.randn(100, 100) for i in range(11)}, limits)
    assert 300_000 < len(data) <= 350_000
    with pytest.raises(AudioVQError, match="does not fit"):
        encode_state({f"model.{i}": torch.randn(100, 100) for i in range(30)}, limits)


def test_a_set_replaces_the_one_before(tmp_path):
    limits = Limits(file_bytes=100_000)
    for step in (5, 10, 10):
        data = encode_state(state(step), limits)
        files = write_set(tmp_path / "out", data, {"step": step, "seconds": 1.5}, limits)
        assert sorted(files) == sorted((tmp_path / "out").iterdir())
    assert max(path.stat().st_size for path in files) <= 100_000
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    tensors, facts = read_set(tmp_path / "out")
    assert facts == {"step": 10, "seconds": 1.5}
    assert torch.equal(tensors["model.a"], state(10)["model.a"])


@pytest.mark.parametrize("done", range(5))  # four parts and the list of them
def test_a_complete_set_survives_an_interruption(tmp_path, monkeypatch, done):
    limits = Limits()
    write_set(tmp_path / "out", encode_state(state(1), limits), {"step": 1}, limits)
    moved, replace = [], os.replace

    def interrupted(source, target):
        if len(moved) == done:
            raise KeyboardInterrupt
        moved.append(target)
        replace(source, target)

    monkeypatch.setattr(states.os, "replace", interrupted)
    data = encode_state(state(2), limits)
    with pytest.raises(KeyboardInterrupt):
        write_set(tmp_path / "out", data, {"step": 2}, Limits(file_bytes=len(data) // 4 + 1))
    assert read_set(tmp_path / "out")[1]["step"] == 1
    monkeypatch.undo()
    write_set(tmp_path / "out", data, {"step": 2}, limits)
    assert read_set(tmp_path / "out")[1]["step"] == 2


def test_damage_is_noticed(tmp_path):
    limits = Limits()
    with pytest.raises(AudioVQError, match="there is none"):
        read_set(tmp_path)
    files = write_set(tmp_path, encode_state(state(), limits), {"step": 3}, limits)
    part = next(path for path in files if path.suffix != ".json")
    data = bytearray(part.read_bytes())
    data[-1] ^= 1
    part.write_bytes(data)
    with pytest.raises(AudioVQError, match="is damaged"):
        read_set(tmp_path)
    part.unlink()
    with pytest.raises(AudioVQError, match="missing"):
        read_set(tmp_path)
