"""The precision of training follows the machine, unless it is named."""

import pytest
import torch

from audiovq.errors import AudioVQError
from audiovq.training import batches as precision


@pytest.mark.parametrize(
    ("features", "chosen"),
    [
        ({"avx2", "fma"}, False),
        ({"avx512f", "avx512bw"}, False),
        ({"avx512f", "avx512bf16"}, True),
        ({"amx-bf16"}, True),
        ({"neon", "bf16"}, True),
        (set(), False),
    ],
)
def test_a_processor_without_bfloat16_trains_in_float32(features, chosen, monkeypatch):
    monkeypatch.setattr(precision, "processor_features", lambda: features)
    assert precision.use_bfloat16("auto", torch.device("cpu")) == chosen


@pytest.mark.parametrize("supported", [True, False])
def test_a_gpu_is_asked_itself(supported, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported)
    monkeypatch.setattr(precision, "processor_features", lambda: set() if supported else {"avx512bf16"})
    device = precision.pick_device("auto")
    assert device.type == "cuda"
    assert precision.use_bfloat16("auto", device) == supported


def test_a_named_precision_stays():
    device = torch.device("cpu")
    assert precision.use_bfloat16("bfloat16", device)
    assert not precision.use_bfloat16("float32", device)


def test_unknown_names_are_one_clear_error(monkeypatch):
    with pytest.raises(AudioVQError, match="unknown precision 'half'"):
        precision.use_bfloat16("half", torch.device("cpu"))
    with pytest.raises(AudioVQError, match="unknown device 'gpu'"):
        precision.pick_device("gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(AudioVQError, match="no such device"):
        precision.pick_device("cuda")


def test_the_processor_says_something():
    assert precision.processor_features()
