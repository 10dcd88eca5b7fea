"""Write the table in README.md: the papers' figures and ours, which are read from the recipes' results.

    python recipes/paper/table.py           # update README.md in this folder, between its markers
    python recipes/paper/table.py --check   # exit 1 if README.md is out of date

Experiments without results are marked; only the papers' figures are typed by hand.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from audiovq.io import atomic_write

HERE = Path(__file__).resolve().parent
RECIPES = HERE.parent
BEGIN, END = "<!-- table: written by table.py -->\n", "<!-- end of table -->\n"
NOTHING = "not measured yet"


@dataclass(frozen=True)
class Experiment:
    """One of the experiments of ``experiments.yaml``.

    Attributes:
        what: of which paper, and where in it.
        theirs: the paper's figure.
        ours: name of the function that reads our figure from ``results``, a file under ``recipes/``.
        laptop: the command on data that installs by package name.
        papers_data: the command on the paper's data.
        difference: what differs, in words.
    """

    what: str
    theirs: str
    ours: str
    results: str
    laptop: str
    papers_data: str
    difference: str

    def row(self) -> str:
        return f"| {self.what} | {self.theirs} | {self.found()} | `{self.laptop}` | `{self.papers_data}` |"

    def found(self) -> str:
        """Our figure, or that there is none."""
        path = RECIPES / self.results
        if not path.is_file():
            return NOTHING
        try:
            return READERS[self.ours](json.loads(path.read_text(encoding="utf-8")))
        except KeyError:
            return NOTHING


def bits(results: Any) -> str:
    models = results["bits"]["models"]
    return ", ".join(f"{name} {figures['bits_per_dim']:.2f}" for name, figures in models.items())


def hierarchy(results: Any) -> str:
    def told(stage: str) -> str:
        models = (results[stage][name] for name in ("two levels", "one level"))
        two, one = (f"{m['psnr']:.2f} dB, squared error {1e3 * m['mean_squared_error']:.2f}e-3" for m in models)
        return f"PSNR {two}; one level with the same number of bits {one}"

    return f"photographs: {told('hierarchy')}; frames of a 3-D world: {told('hierarchy_frames')}"


def one_level(results: Any) -> str:
    figures = results["hierarchy"]["one level"]
    return f"{24 / figures['code_bits_per_pixel']:.1f}x fewer bits, PSNR {figures['psnr']:.2f} dB"


def second_stage(results: Any) -> str:
    vq, vae = (results["second_stage"][name] for name in ("VQ-VAE", "VAE"))
    return (
        f"entropy of the latents {vq['entropy_of_latents']:.1f} of 27 bits, "
        f"{vq['bits_lost_with_wrong_latents']:.0f} bits lost with another frame's; "
        f"divergence of the VAE {vae['bits_of_latents']:.2f} bits"
    )


def fashion(results: Any) -> str:
    nats = results["prior"]["nats_per_code"]
    return f"{nats['PixelCNN, told the class']:.2f} nats per code, uniform prior {nats['uniform']:.2f}"


def video(results: Any) -> str:
    return (
        f"PSNR {results['psnr']:.2f} dB over 10 frames, repeating the last frame {results['psnr_repeat_last']:.2f}, "
        f"ignoring actions {results['psnr_blind_to_actions']:.2f}; correct direction from "
        f"{results['action_direction_correct']:.0%} of starts"
    )


def conversion(results: Any) -> str:
    systems = [s for s in results["systems"] if s["family"] == "converter" and s["split"] == "seen"]
    best = systems[0]["metrics"]
    return (
        f"cosine to the target {best['target']['mean']:.2f}, to the source {best['source']['mean']:.2f}, "
        f"target ranked first in {best['identified']['mean']:.0f} %"
    )


def generation(results: Any) -> str:
    return (
        ", ".join(f"{name} {found['nats_per_code']:.2f}" for name, found in results["likelihood"].items())
        + " nats per code"
    )


def phones(results: Any) -> str:
    group = results["phones"]["groups"][0]
    rows = {row["representation"]: 100 * row["speech"]["mean"] for row in group["rows"]}
    return (
        f"{rows['codebook 1']:.1f} %, largest class {100 * group['largest_class']['speech']['mean']:.1f} %, "
        f"k-means on MFCCs {rows['k-means on MFCCs']:.1f} %"
    )


READERS: dict[str, Callable[[Any], str]] = {
    reader.__name__: reader
    for reader in (bits, one_level, hierarchy, second_stage, fashion, video, conversion, generation, phones)
}


def table() -> str:
    """Markdown: the figures, then what differs."""
    experiments = [Experiment(**one) for one in yaml.safe_load((HERE / "experiments.yaml").read_text(encoding="utf-8"))]
    lines = ["| experiment | the paper | ours | on two CPU cores | on the paper's data |", "|---|---|---|---|---|"]
    lines += [experiment.row() for experiment in experiments]
    lines += ["", "Differences:", ""]
    lines += [f"* **{experiment.what}.** {experiment.difference}" for experiment in experiments]
    return "\n".join(lines) + "\n"


def main() -> None:
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        return
    readme = HERE / "README.md"
    content = readme.read_text(encoding="utf-8")
    before, rest = content.split(BEGIN)
    written = before + BEGIN + "\n" + table() + "\n" + END + rest.split(END)[1]
    if "--check" in sys.argv[1:]:
        sys.exit(None if written == content else f"{readme} is not what the results say: python recipes/paper/table.py")
    with atomic_write(readme) as path:
        path.write_text(written, encoding="utf-8")
    print(table())


if __name__ == "__main__":
    main()
