"""How fast the WaveNet's sampler draws, against real time, the core's matrix product and a cached PyTorch loop.

    python benchmarks/wavenet.py [--json] [--rounds 7] [--seconds 0.5] [--no-start]

The network is a usual WaveNet for speech: 30 layers of 64 channels with kernels of 2 and dilations 1 to 512, 64 skip
channels, 256 mu-law classes; 0.76 million weights, random ones, since speed does not depend on them. Everything runs on
one thread and in one process, and the candidates take turns:

* ``WaveNetSampler.sample`` with one stream and with 16, all that it does included: noise, projection of the condition,
  the draws. Weights in float32, and (keys with ``_bfloat16``) in half the memory;
* ``torch.mm`` on square float32 matrices, of the size at which it is fastest;
* the usual cached PyTorch loop (``vs_pytorch_cached``): per layer a ring of past inputs, and one step of each of the
  stack's convolutions, under ``inference_mode``; and one tuned by hand to as few and cheap calls as the network allows
  (``vs_pytorch_tuned``).

The median of ``--rounds`` counts. Keys that end in ``_per_cpu_second`` count processor time instead of the clock: what
a busy machine leaves comparable. Then processes that draw or decode a tenth of a second of speech are timed from their
start to their end: the parallel decoder for the same latents, and the WaveNet with a kernel from the cache.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
SAMPLE_RATE = 16000
STREAMS = 16
STACK = {"channels": 64, "skip_channels": 64, "n_layers": 30, "dilation_cycle": 10}
BACKBONE = {"channels": [64, 64], "dilations": [[1], [1]], "upsample": [4]}
MATRIX_SIZES = (128, 192, 256, 320, 384, 512, 768)
LOOP_STEPS = 60
FIRST_FRAMES = 5


def make_decoder():
    """The network, with random weights."""
    import torch

    from audiovq.speech.wavenet import WaveNetDecoder

    torch.manual_seed(0)
    decoder = WaveNetDecoder(64, 32, 320, BACKBONE, STACK, {"kind": "mu_law"}).eval()
    with torch.no_grad():
        decoder.stack.project.weight.normal_(0, 0.1)
    return decoder


class CachedLoop:
    """The stack step by step in PyTorch: a ring of past inputs for each layer, and one step of every convolution."""

    def __init__(self, decoder) -> None:
        import torch

        stack = decoder.stack
        self.decoder, self.stack, self.position = decoder, stack, 0
        self.queues = [torch.zeros(1, stack.channels, d) for d in stack.dilations]

    def logits(self, value, gates):
        """(1, n_classes) from the last value (1, 1) and the layers' conditions, (1, 2 * channels, 1) each."""
        import torch
        import torch.nn.functional as F

        stack, total = self.stack, 0
        x = stack.entry(self.decoder.inputs(value.unsqueeze(2)))
        for layer, dilation in enumerate(stack.dilations):
            place = self.position % dilation
            past = self.queues[layer][:, :, place : place + 1]
            z = F.conv1d(torch.cat([past, x], dim=2), stack.dilated[layer].weight) + gates[layer]
            past.copy_(x)
            a, b = z.chunk(2, dim=1)
            h = torch.tanh(a) * torch.sigmoid(b)
            total = total + stack.skip[layer](h)
            if layer < len(stack.residual):
                x = x + stack.residual[layer](h)
        self.position += 1
        return stack.project(F.relu(stack.mix(F.relu(total))))[:, :, 0]


class TunedLoop(CachedLoop):
    """The same by matrix products on rows, residual and skip in one: about what can be had from PyTorch."""

    def __init__(self, decoder) -> None:
        import torch

        super().__init__(decoder)
        stack = self.stack

        def rows(*layers):
            return torch.cat([layer.weight[:, :, 0] for layer in layers]).t().contiguous()

        self.rings = [torch.zeros(d, stack.channels) for d in stack.dilations]
        self.past = [layer.weight[:, :, 0].t().contiguous() for layer in stack.dilated]
        self.now = [layer.weight[:, :, 1].t().contiguous() for layer in stack.dilated]
        pairs = [*zip(stack.residual, stack.skip, strict=False), (stack.skip[-1],)]
        self.out = [(torch.cat([layer.bias for layer in pair]), rows(*pair)) for pair in pairs]
        self.ends = {
            name: (getattr(stack, name).bias, rows(getattr(stack, name))) for name in ("entry", "mix", "project")
        }

    def logits(self, value, gates):
        import torch

        def linear(x, parameters):
            return torch.addmm(parameters[0], x, parameters[1])

        x = linear(self.decoder.inputs(value.unsqueeze(2))[..., 0], self.ends["entry"])
        channels, total = x.shape[1], 0
        for layer, dilation in enumerate(self.stack.dilations):
            ring, place = self.rings[layer], self.position % dilation
            z = torch.addmm(gates[layer][..., 0], ring[place : place + 1], self.past[layer])
            z = torch.addmm(z, x, self.now[layer])
            ring[place] = x[0]
            h = torch.tanh(z[:, :channels]) * torch.sigmoid(z[:, channels:])
            out = linear(h, self.out[layer])
            if layer < len(self.stack.residual):
                x, out = x + out[:, :channels], out[:, channels:]
            total = total + out
        self.position += 1
        return linear(torch.relu(linear(torch.relu(total), self.ends["mix"])), self.ends["project"])


def draw_with(loop: CachedLoop, condition, noise, steps: int):
    """Draw ``steps`` values (steps,) from the beginning."""
    import torch

    with torch.inference_mode():
        decoder = loop.decoder
        projected = decoder.stack.project_condition(condition)
        columns = [column.unsqueeze(2).chunk(decoder.stack.n_layers, dim=1) for column in projected.unbind(2)]
        value, values = torch.zeros(1, 1), []
        for t in range(steps):
            logits = loop.logits(value, columns[t // decoder.hold])
            cumulative = torch.softmax(logits, dim=1).cumsum(1)
            level = torch.searchsorted(cumulative, noise[:, 0, :, t]).clamp_max(logits.shape[1] - 1)
            value = decoder.output.value(level)
            values.append(value)
        return torch.cat(values)[:, 0]


def candidates(seconds: float) -> tuple[dict[str, tuple[Callable[[], object], float]], dict[str, Any]]:
    """Functions to time with the work each does (samples, or multiplications for the matrix product), and facts."""
    import torch

    from audiovq.wavenet.sampler import Noise, WaveNetSampler

    torch.set_num_threads(1)
    decoder = make_decoder()
    samplers = {weights: WaveNetSampler(decoder, weights) for weights in ("float32", "bfloat16")}
    positions = max(round(seconds * SAMPLE_RATE) // decoder.hold, 1)
    steps = positions * decoder.hold
    condition = torch.randn(STREAMS, BACKBONE["channels"][-1], positions)
    noise = torch.cat([Noise(samplers["float32"], seed).at(0, steps) for seed in range(STREAMS)])

    # All of them draw the same, or a figure means nothing.
    drawn = samplers["float32"].sample(condition[:1, :, :2], noise[:1, ..., : 2 * decoder.hold])[0, 0, :LOOP_STEPS]
    for loop in (CachedLoop, TunedLoop):
        apart = (draw_with(loop(decoder), condition[:1], noise[:1], LOOP_STEPS) - drawn).abs()
        if apart[:20].max() > 1e-4:
            raise SystemExit(f"the sampler and the {loop.__name__} draw different values")

    def draw(weights: str, batch: int) -> Callable[[], object]:
        def call() -> object:
            noises = torch.cat([Noise(samplers[weights], seed).at(0, steps) for seed in range(batch)])
            return samplers[weights].sample(condition[:batch], noises)

        return call

    def product(size: int) -> Callable[[], object]:
        a, b = torch.randn(size, size), torch.randn(size, size)
        out, times = torch.empty(size, size), max(2 * 512**3 // size**3, 1)
        return lambda: [torch.mm(a, b, out=out) for _ in range(times)]

    functions: dict[str, tuple[Callable[[], object], float]] = {}
    for weights in samplers:
        functions[f"one_{weights}"] = (draw(weights, 1), steps)
        functions[f"batch_{weights}"] = (draw(weights, STREAMS), steps * STREAMS)
    for name, loop in (("loop", CachedLoop), ("tuned", TunedLoop)):
        made = loop(decoder)
        functions[name] = (partial(draw_with, made, condition[:1], noise[:1], LOOP_STEPS), LOOP_STEPS)
    for size in MATRIX_SIZES:
        functions[f"matmul_{size}"] = (product(size), size**3 * max(2 * 512**3 // size**3, 1))

    with torch.inference_mode():
        values = decoder.output.on_grid(0.3 * torch.randn(1, 1, steps)[..., :2000])
        part = condition[:1, :, : values.shape[-1] // decoder.hold]
        values = values[..., : part.shape[-1] * decoder.hold]
        exact, moved = (sampler.outputs(part, values) for sampler in samplers.values())
        whole = decoder.stack(decoder.inputs(torch.nn.functional.pad(values, (1, -1))), part)
    about = {
        "macs_per_sample": decoder.stack.macs_per_step,
        "logits_max_error_float32": float((exact - whole).abs().max()),
        "logits_relative_error_bfloat16": float((moved - exact).std() / exact.std()),
        "torch": torch.__version__,
    }
    return functions, about


def measure(seconds: float, rounds: int) -> dict[str, Any]:
    """All rates and ratios of one run."""
    functions, about = candidates(seconds)
    clock: dict[str, list[float]] = {name: [] for name in functions}
    processor: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(rounds + 1):
        for name, (function, work) in functions.items():
            start, start_cpu = time.perf_counter(), time.process_time()
            function()
            if turn:  # the first warms up
                clock[name].append(work / (time.perf_counter() - start))
                processor[name].append(work / (time.process_time() - start_cpu))
    results: dict[str, Any] = {}
    for suffix, rates in (("", clock), ("_per_cpu_second", processor)):
        rate = {name: statistics.median(values) for name, values in rates.items()}
        product = max(rate[f"matmul_{size}"] for size in MATRIX_SIZES)
        for weights, end in (("float32", ""), ("bfloat16", "_bfloat16")):
            macs = rate[f"batch_{weights}"] * about["macs_per_sample"]
            results |= {
                f"real_time_one_stream{end}{suffix}": rate[f"one_{weights}"] / SAMPLE_RATE,
                f"batch_of_matmul{end}{suffix}": macs / product,
                f"vs_pytorch_cached{end}{suffix}": rate[f"one_{weights}"] / rate["loop"],
                f"vs_pytorch_tuned{end}{suffix}": rate[f"one_{weights}"] / rate["tuned"],
                f"samples_per_second{end}{suffix}": rate[f"one_{weights}"],
                f"batch_samples_per_second{end}{suffix}": rate[f"batch_{weights}"],
                f"batch_gmac_per_second{end}{suffix}": macs / 1e9,
            }
        results |= {f"pytorch_samples_per_second{suffix}": rate["loop"]}
        results |= {f"pytorch_tuned_samples_per_second{suffix}": rate["tuned"]}
        results |= {f"matmul_gmac_per_second{suffix}": product / 1e9}
    return results | about


def first_moment(which: str) -> None:
    """Draw or decode a tenth of a second, in a process that has done nothing before."""
    import torch

    torch.set_num_threads(1)
    latents, speaker = torch.randn(1, 64, FIRST_FRAMES), torch.randn(1, 32)
    if which == "parallel":
        from audiovq.speech.parallel import ParallelDecoder

        decoder = ParallelDecoder(64, 32, [256, 192, 128], [[1, 3], [1, 3], [1, 3]], [2, 2], 320).eval()
        with torch.inference_mode():
            decoder(latents, speaker)
        return
    from audiovq.wavenet.sampler import Noise, WaveNetSampler

    wavenet = make_decoder()
    with torch.inference_mode():
        sampler = WaveNetSampler(wavenet, "bfloat16")
        sampler.sample(wavenet.condition(latents, speaker), Noise(sampler).at(0, 320 * FIRST_FRAMES))


def measure_start(rounds: int = 5) -> dict[str, float]:
    """Seconds of processes that decode a moment: parallel, WaveNet, and WaveNet when nothing is compiled yet."""

    def run(which: str, environment: dict[str, str]) -> tuple[float, float]:
        command = [sys.executable, "-W", "ignore", __file__, "--first-moment", which]
        start = time.perf_counter()
        process = subprocess.Popen(command, env={**os.environ, **ONE_THREAD, **environment})
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"{' '.join(command)} failed")
        return time.perf_counter() - start, usage.ru_utime + usage.ru_stime

    with tempfile.TemporaryDirectory() as folder:
        first = run("wavenet", {"AUDIOVQ_CACHE": folder})
        pairs = [(run("parallel", {}), run("wavenet", {"AUDIOVQ_CACHE": folder})) for _ in range(rounds)]
    results = {"first_start_seconds": first[0], "first_start_cpu_seconds": first[1]}
    for i, name in enumerate(("seconds", "cpu_seconds")):
        results[f"parallel_start_{name}"] = statistics.median(parallel[i] for parallel, _ in pairs)
        results[f"second_start_{name}"] = statistics.median(wavenet[i] for _, wavenet in pairs)
        results[f"second_start_extra_{name}"] = statistics.median(w[i] - p[i] for p, w in pairs)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.5, help="of audio that a stream draws in a turn")
    parser.add_argument("--no-start", action="store_true", help="do not time how processes start")
    parser.add_argument("--first-moment", choices=["parallel", "wavenet"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ.update(ONE_THREAD)  # torch and numba are not imported yet
    if options.first_moment:
        first_moment(options.first_moment)
        return
    results = measure(options.seconds, options.rounds)
    if not options.no_start:
        results |= measure_start()
    if options.json:
        print(json.dumps(results, indent=1))
        return
    for key, value in results.items():
        print(f"{key:50} {value:,.6g}" if isinstance(value, float) else f"{key:50} {value}")


if __name__ == "__main__":
    main()
