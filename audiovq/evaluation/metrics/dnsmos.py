"""Predicted opinion of listeners, without a reference."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from audiovq.evaluation.metrics.base import Metric
from audiovq.evaluation.pair import SAMPLE_RATE, Pair
from audiovq.evaluation.statistics import Score
from audiovq.optional import need

SEGMENT = int(9.01 * SAMPLE_RATE)
"""The 9.01 s that the network hears at once."""


class DNSMOS(Metric):
    """DNSMOS P.835, overall quality 1 to 5 (Reddy, Gopal, Cutler, 2022), by the weights in the package `speechmos`.

    A clip is repeated to whole segments of 9.01 s, which are rated one by one and averaged. (The package's own function
    slides over the clip by one second: five to ten times the work for the second decimal.) It hears noise and
    roughness, hardly a wrong word or a missing upper band.
    """

    name, label, higher_is_better, decimals, judges_alone = "dnsmos", "DNSMOS", True, 2, True

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
        """None for no samples at all."""
        samples = np.clip(pair.degraded, -1.0, 1.0).astype(np.float32)
        if not len(samples):
            return None
        n_segments = -(-len(samples) // SEGMENT)
        segments = np.resize(samples, (n_segments, SEGMENT))  # np.resize repeats
        rated = self._session.run(None, {"input_1": segments})[0]  # (segments, 3): signal, background, overall; raw
        # From the network's scale to the listeners': the polynomial published with it.
        overall = np.polyval([-0.06766283, 1.11546468, 0.04602535], rated[:, 2].astype(np.float64))
        return Score(float(overall.mean()))
