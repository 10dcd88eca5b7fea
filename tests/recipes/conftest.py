"""Fixtures of the tests of data, for recipes that make it."""

from __future__ import annotations

from tests.data.conftest import rng

__all__ = ["rng"]
