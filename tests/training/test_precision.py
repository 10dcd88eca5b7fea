"""The precision of training follows the machine, unless it is named."""

import pytest
import torch

from audiovq.training import precision


@pytest.mark.parametrize(
    ("features", "chosen"),
    [
        ({"avx2", "fma"}, "32-true"),
        ({"avx512f", "avx512bw"}, "32-true"),
        ({"avx512f", "avx512bf16"}, "bf16-mixed"),
        ({"amx-bf16"}, "bf16-mixed"),
        ({"neon", "bf16"}, "bf16-mixed"),
        (set(), "32-true"),
    ],
)
def test_a_processor_without_bfloat16_trains_in_float32(features, chosen, monkeypatch):
    monkeypatch.setattr(precision, "processor_features", lambda: features)
    assert precision.precision_for("auto", "cpu") == chosen


@pytest.mark.parametrize("supported", [True, False])
def test_a_gpu_is_asked_itself(supported, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported)
    monkeypatch.setattr(precision, "processor_features", lambda: set() if supported else {"avx512bf16"})
    assert precision.precision_for("auto", "auto") == ("bf16-mixed" if supported else "32-true")


def test_a_named_precision_stays():
    assert precision.precision_for("64-true", "cpu") == "64-true"


def test_the_processor_says_something():
    assert precision.processor_features()
