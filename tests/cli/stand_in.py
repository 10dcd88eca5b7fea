"""The command line as a process, with models that need no network: ``python -m tests.cli.stand_in VERB ...``."""

from __future__ import annotations

import sys

from audiovq.cli import checks, loading, main
from audiovq.errors import AudioVQError
from audiovq.speech import checkpoint
from tests.fake_codec import FakeCodec

NAMES = ("fake", "other")


def load(self, name_or_dir):
    """In the place of `Models.load`."""
    name = name_or_dir or "fake"
    if name not in (*NAMES, "unbundled"):
        raise AudioVQError(f"no model {name!r}")
    return FakeCodec(name)


def facts(name_or_dir):
    """In the place of `checks.facts`."""
    return load(None, name_or_dir)


def bundled_hashes():
    """In the place of `loading.bundled_hashes`."""
    return {name: FakeCodec(name).model_hash for name in NAMES}


def bundled_clock(model_hash):
    """In the place of `loading.bundled_clock`."""
    return (16000, 320) if model_hash in bundled_hashes().values() else None


def conversion_model():
    """In the place of `checkpoint.conversion_model`: the stand-in for everything."""
    return None


if __name__ == "__main__":
    loading.Models.load = load
    loading.bundled_hashes = bundled_hashes
    checks.facts = facts
    loading.bundled_clock = bundled_clock
    checkpoint.conversion_model = conversion_model
    sys.exit(main())
