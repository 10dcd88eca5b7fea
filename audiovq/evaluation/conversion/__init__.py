"""Voice conversion measured on a fixed set of pairs (docs/conversion.md)."""
