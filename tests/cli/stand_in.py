"""The command line as a process, with models that need no network: ``python -m tests.cli.stand_in VERB ...``."""

from __future__ import annotations

import sys
from pathlib import Path

from audiovq import hub
from audiovq.cli import loading, main
from audiovq.errors import AudioVQError
from tests.fake_codec import FakeCodec

NAMES = ("fake", "other")


def load(self, name_or_dir):
    """In the place of `Models.load`."""
    name = name_or_dir or "fake"
    if name not in (*NAMES, "unbundled"):
        raise AudioVQError(f"no model {name!r}")
    return FakeCodec(name)


def facts(name_or_dir):
    """In the place of `loading.facts`."""
    return load(None, name_or_dir)


def bundled_models(media="speech"):
    """In the place of `hub.bundled_models`."""
    return list(NAMES)


def bundled_hashes(*media):
    """In the place of `hub.bundled_hashes`."""
    return {FakeCodec(name).model_hash: Path(name) for name in NAMES}


def bundled_clock(model_hash):
    """In the place of `loading.bundled_clock`."""
    return (16000, 320) if model_hash in bundled_hashes() else None


if __name__ == "__main__":
    loading.Models.load = load
    hub.bundled_hashes, hub.bundled_models = bundled_hashes, bundled_models
    loading.facts = facts
    loading.bundled_clock = bundled_clock
    sys.exit(main())
