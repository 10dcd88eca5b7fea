"""Photographs of Debian's packages, shrunk to a short side of 512 pixels; and Fashion-MNIST with ``--fashion-mnist``.

    python recipes/images/prepare.py [--out DIR] [--debs DIR]

Abstract and drawn wallpapers of the packages are left out. Writes one PNG a picture and sources.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from PIL import Image

from audiovq.data.images import load_image
from audiovq.errors import AudioVQError
from audiovq.io import atomic_write, cache_dir

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # recipes share modules

from recipes.debian_packages import fetch, sha256_of, unpack

LOMIRI = (
    "Bridge_by_Sander_Klootwijk Dragonfly_by_Bolly Kleiber_by_Lukas_Baubkus Picture_0B_by_freespace "
    "Picture_1A_by_freespace Wine_by_Jakkub_Mede aitzgorri_by_Aitzol_Berasategi free_by_Peter_Nerlich "
    "friends_by_Aitzol_Berasategi greentock_by_Peter_Nerlich life_by_Aitzol_Berasategi "
    "picosdeeuropa_by_Aitzol_Berasategi seeding_by_Clements_Engelhardt sunset_by_Aitzol_Berasategi"
)
MATE = (
    "nature/Aqua nature/Blinds nature/Dune nature/FreshFlower nature/Garden nature/GreenMeadow nature/LadyBird "
    "nature/RainDrops nature/Storm nature/TwoWings nature/Wood nature/YellowFlower abstract/Elephants"
)
PLASMA = (
    "Autumn BytheWater ColdRipple ColorfulCups DarkestHour EveningGlow FallenLeaf Grey Kite OneStandsOut Path "
    "summer_1am"
)
PACKAGES = ("lomiri-wallpapers-16.04", "lomiri-wallpapers-20.04", "mate-backgrounds", "plasma-workspace-wallpapers")
SIDE = 512


def photographs(root: Path) -> dict[str, Path]:
    """Where each photograph lies in the unpacked packages, by a name that says what it is."""
    share = root / "usr" / "share"
    found = {name: share / "backgrounds" / f"{name}.jpg" for name in LOMIRI.split()}
    found |= {name.rpartition("/")[2]: share / "backgrounds" / "mate" / f"{name}.jpg" for name in MATE.split()}
    images = "contents/images/2560x1600.jpg"
    return found | {name: share / "wallpapers" / name / images for name in PLASMA.split()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=cache_dir() / "data" / "photographs")
    parser.add_argument("--debs", type=Path, default=cache_dir() / "debs", help="where .deb files are, or go")
    parser.add_argument("--fashion-mnist", action="store_true", help="unpack Fashion-MNIST beside it, too")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".debian-", dir=arguments.out.parent) as name:
        folder = Path(name)
        unpack(fetch(arguments.debs, PACKAGES).values(), folder)
        sources = {}
        for picture, path in photographs(folder).items():
            pixels = load_image(path, SIDE)
            with atomic_write(arguments.out / f"{picture}.png") as temporary:
                Image.fromarray(pixels).save(temporary)
            sources[picture] = {"file": path.relative_to(folder).as_posix(), "sha256": sha256_of(path)}
        with atomic_write(arguments.out / "sources.json") as temporary:
            temporary.write_text(json.dumps(sources, indent=1) + "\n")
        print(f"{arguments.out}: {len(sources)} photographs")
        if arguments.fashion_mnist:
            unpack(fetch(arguments.debs, ["dataset-fashion-mnist"]).values(), folder)
            target = arguments.out.parent / "fashion_mnist"
            target.mkdir(exist_ok=True)
            for path in folder.rglob("*-ubyte*"):
                path.rename(target / path.name)
            print(f"{target}: Fashion-MNIST")


if __name__ == "__main__":
    try:
        main()
    except AudioVQError as error:
        sys.exit(f"error: {error}")
