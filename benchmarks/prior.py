"""Speed of sampling codes on one thread, against a GPT-2 of transformers of the same layers, width and vocabulary.

    python benchmarks/prior.py [--json] [--steps 200] [--rounds 3] [--seconds 10] [--model NAME|DIR] [--prior DIR]

``vs_gpt2_one_stream`` and ``vs_gpt2_batch16`` compare like with like: a prior over one book of 1024, six layers of
384, where a step of the backbone gives one token, against `GPT2LMHeadModel` (random weights) with its key-value cache;
both draw from the softmax. GPT-2 runs by its own `generate` and by a bare loop under `torch.inference_mode`; we compare
with the quicker of the two. All take turns, and medians of processor time count.

``codes_per_second_*`` is the whole prior with pitch and eight codebooks, each code a token of 1024 and pitch not
counted: what generating speech takes.
``speech_10s_seconds`` is one stream of ten seconds, sampled and decoded. ``int8_nats`` is what rounding the weights to
8 bits moves the likelihood of random codes by, ``deviation`` the largest difference of the compiled sampler to the full
forward pass with the same weights.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
LAYERS, WIDTH, HEADS, VOCABULARY, PITCH = 6, 384, 6, 1024, 177


def make_gpt2(n_positions: int) -> Any:
    """Random weights; the default attention of the library."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=n_positions,
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=HEADS,
        bos_token_id=0,
        eos_token_id=None,
        pad_token_id=0,
    )
    return GPT2LMHeadModel(config).eval()


def gpt2_tokens(model: Any, batch: int, steps: int) -> None:
    """Token by token with the cache, drawing from the softmax."""
    import torch

    with torch.inference_mode():
        tokens, cache = torch.zeros(batch, 1, dtype=torch.int64), None
        for _ in range(steps):
            out = model(tokens, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            tokens = torch.multinomial(torch.softmax(out.logits[:, -1], -1), 1)


def gpt2_generate(model: Any, batch: int, steps: int) -> None:
    """The same by the library's own loop."""
    import torch

    start = torch.zeros(batch, 1, dtype=torch.int64)
    with torch.inference_mode():
        model.generate(
            start,
            attention_mask=torch.ones_like(start),
            max_new_tokens=steps,
            min_new_tokens=steps,
            do_sample=True,
            top_k=0,
            use_cache=True,
        )


def make_prior(n_codebooks: int, pitch_values: int = 0) -> Any:
    """Our prior with random weights, all of them away from zero."""
    import torch

    from audiovq.prior import CodePrior

    torch.manual_seed(0)
    backbone = {"kind": "transformer", "n_layers": LAYERS, "n_heads": HEADS, "n_groups": 2, "window": 256}
    depth = {"depth_width": 256, "hidden": 512, "n_layers": 2}
    prior = CodePrior(n_codebooks, VOCABULARY, WIDTH, backbone, depth, pitch_values=pitch_values)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return prior.eval()


def rates(functions: dict[str, Callable[[], object]], tokens: dict[str, int], rounds: int) -> dict[str, float]:
    """Tokens a second of each, medians over turns."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(rounds + 1):
        for name, function in functions.items():
            start = time.process_time()
            function()
            if turn:  # the first turn warms up and compiles
                times[name].append(time.process_time() - start)
    return {name: tokens[name] / statistics.median(found) for name, found in times.items()}


def measure_ratios(steps: int, rounds: int) -> dict[str, float]:
    """One stream and a batch of 16, in turns."""
    gpt2, single, whole = make_gpt2(max(1024, steps + 1)), make_prior(1), make_prior(8, PITCH)
    functions: dict[str, Callable[[], object]] = {}
    tokens = {}
    for label, batch in (("one_stream", 1), ("batch16", 16)):
        functions |= {
            f"gpt2_{label}": lambda b=batch: gpt2_tokens(gpt2, b, steps),
            f"gpt2_generate_{label}": lambda b=batch: gpt2_generate(gpt2, b, steps),
            f"prior_{label}": lambda b=batch: single.sample(steps, b),
            f"codes_{label}": lambda b=batch: whole.sample(steps, b),
        }
        counts = (batch * steps, batch * steps, batch * steps, 8 * batch * steps)
        tokens |= dict(zip(list(functions)[-4:], counts, strict=True))
    found = rates(functions, tokens, rounds)
    results = {}
    for label in ("one_stream", "batch16"):
        theirs = max(found[f"gpt2_{label}"], found[f"gpt2_generate_{label}"])
        results[f"vs_gpt2_{label}"] = found[f"prior_{label}"] / theirs
        results[f"codes_vs_gpt2_{label}"] = found[f"codes_{label}"] / theirs
    for label in ("one_stream", "batch16"):
        results[f"tokens_per_second_{label}"] = found[f"prior_{label}"]
        results[f"codes_per_second_{label}"] = found[f"codes_{label}"]
        results[f"gpt2_tokens_per_second_{label}"] = found[f"gpt2_{label}"]
        results[f"gpt2_generate_tokens_per_second_{label}"] = found[f"gpt2_generate_{label}"]
    return results


def measure_deviation() -> dict[str, float]:
    """Compiled sampler against full pass, and 8-bit weights against float32."""
    import torch

    from audiovq.prior.kernels import CompiledStepper
    from audiovq.prior.networks import SamplingConfig
    from audiovq.prior.speech import rounded

    prior = make_prior(8, PITCH)
    generator = torch.Generator().manual_seed(0)
    codes = torch.cat([torch.randint(0, size, (2, 1, 300), generator=generator) for size in prior.sizes], dim=1)
    with torch.inference_mode():
        exact = prior.nll(codes).mean()
        prior.load_state_dict(rounded(prior))
        moved = float(abs(prior.nll(codes).mean() - exact))
        hidden, _ = prior.hidden(codes)
        stepper = CompiledStepper(prior.packed(), prior.conditioner(2, None).numpy(), SamplingConfig(), prior.n_streams)
        before, largest = torch.full((2, prior.n_streams), prior.absent), 0.0
        for frame in range(codes.shape[2]):
            stepped = torch.from_numpy(stepper.hidden(before.numpy()).copy())
            largest = max(largest, float((stepped - hidden[:, frame]).abs().max()))
            before = codes[:, :, frame]
    return {"deviation": largest, "int8_nats": moved}


def measure_speech(model: str | None, folder: str | None, seconds: float, rounds: int) -> dict[str, Any]:
    """Sampling and decoding, by the clock and by the processor; with random weights where there is no prior."""
    from audiovq.codec.codec import SpeechCodec
    from audiovq.errors import AudioVQError
    from audiovq.prior import CodePrior, SpeechPrior

    try:
        source, trained = SpeechPrior.from_pretrained(model, folder), True
    except AudioVQError:
        if folder is not None:
            raise
        codec = SpeechCodec.from_pretrained(model)
        prior = make_prior(8)
        config = {**prior.config, "n_codebooks": codec.n_codebooks, "speaker_dim": codec.speaker_encoder.dim}
        config |= {"codebook_size": codec.codebook_size, "pitch_values": PITCH}
        source, trained = SpeechPrior(codec, CodePrior(**config).eval()), False
    speaker = [0] * source.codec.speaker_encoder.dim
    parts: dict[str, list[float]] = {"sampled": [], "decoded": [], "clock": []}
    for turn in range(rounds + 1):
        clock, start = time.perf_counter(), time.process_time()
        encoded = source.generate(seconds, speaker=speaker, seed=turn)
        middle = time.process_time()
        source.codec.decode(encoded)
        if turn:
            parts["sampled"].append(middle - start)
            parts["decoded"].append(time.process_time() - middle)
            parts["clock"].append(time.perf_counter() - clock)
    medians = {name: statistics.median(times) for name, times in parts.items()}
    return {
        f"speech_{seconds:g}s_seconds": medians["sampled"] + medians["decoded"],
        f"speech_{seconds:g}s_sampling_seconds": medians["sampled"],
        f"speech_{seconds:g}s_wall_seconds": medians["clock"],
        "trained": trained,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--steps", type=int, default=200, help="tokens of each stream")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--model", help="codec's name or folder")
    parser.add_argument("--prior", help="prior's folder")
    options = parser.parse_args()
    if any(os.environ.get(name) != value for name, value in ONE_THREAD.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **ONE_THREAD})
    import torch

    torch.set_num_threads(1)
    results = measure_ratios(options.steps, options.rounds) | measure_deviation()
    results |= measure_speech(options.model, options.prior, options.seconds, options.rounds)
    if options.json:
        print(json.dumps(results, indent=1))
        return
    for key, value in results.items():
        print(f"{key:44} {value:,.6g}" if isinstance(value, float) else f"{key:44} {value}")


if __name__ == "__main__":
    main()
