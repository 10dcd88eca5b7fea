"""Predicted listeners' opinion, without a reference."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from types import ModuleType

import numpy as np

from audiovq.errors import need
from audiovq.evaluation.protocol import SAMPLE_RATE, Metric, Pair
from audiovq.evaluation.stats import Score

SEGMENT = int(9.01 * SAMPLE_RATE)
"""Samples that DNSMOS rates at once."""


class DNSMOS(Metric):
    """DNSMOS P.835, overall quality 1 to 5 (Reddy, Gopal, Cutler, 2022), by the weights in the package `speechmos`.

    A recording is repeated to whole segments of 9.01 s, which are rated one by one and averaged. (The package's own
    function moves along by one second: five to ten times the work for the second decimal.) It is sensitive to noise
    and roughness, hardly to a wrong word or a missing upper band.
    """

    name, label, higher_is_better, decimals, no_reference = "dnsmos", "DNSMOS", True, 2, True

    def __init__(self) -> None:
        # The module speechmos.dnsmos itself imports librosa, requests and more that only its own driver uses.
        folder = Path(need("speechmos", "DNSMOS").__file__).parent / "dnsmos_models"
        onnxruntime = need("onnxruntime", "DNSMOS")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", "0"))
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            str(folder / "sig_bak_ovr.onnx"), options, providers=["CPUExecutionProvider"]
        )

    def score(self, pair: Pair) -> Score | None:
        """None for an empty recording."""
        samples = np.clip(pair.degraded, -1.0, 1.0).astype(np.float32)
        if not len(samples):
            return None
        segments = np.resize(samples, (-(-len(samples) // SEGMENT), SEGMENT))  # np.resize repeats
        rated = self._session.run(None, {"input_1": segments})[0]  # (segments, 3): signal, background, overall; raw
        # From the network's scale to the listeners': the polynomial published with it.
        overall = np.polyval([-0.06766283, 1.11546468, 0.04602535], rated[:, 2].astype(np.float64))
        return Score(float(overall.mean()))


class DistillMOS(Metric):
    """DistillMOS, overall quality 1 to 5 (Stahl and Gamper 2025), by the package `distillmos`.

    It rates windows of 7.68 s at most a second apart; shorter recordings are padded with zeros, which lowers their
    rating: use excerpts of 5 s and more.
    """

    name, label, higher_is_better, decimals, no_reference = "distillmos", "DistillMOS", True, 2, True

    def __init__(self) -> None:
        with _without_torchaudio():
            distillmos = need("distillmos", "DistillMOS")
        with redirect_stdout(StringIO()):  # it prints where its weights are
            self._model = distillmos.ConvTransformerSQAModel().eval()

    def score(self, pair: Pair) -> Score | None:
        """None for an empty recording."""
        import torch

        if not len(pair.degraded):
            return None
        with torch.inference_mode():
            samples = torch.from_numpy(np.clip(pair.degraded, -1.0, 1.0).astype(np.float32))
            return Score(float(self._model(samples[None])))


@contextmanager
def _without_torchaudio() -> Iterator[None]:
    """An empty module ``torchaudio`` during an import that only names it.

    distillmos reads files with it in its own command line alone, and many builds of torchaudio do not load beside the
    torch that is installed.
    """
    if "torchaudio" in sys.modules:
        yield
        return
    sys.modules["torchaudio"] = ModuleType("torchaudio")
    try:
        yield
    finally:
        del sys.modules["torchaudio"]
