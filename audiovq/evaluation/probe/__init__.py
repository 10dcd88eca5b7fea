"""What codes know: speaker and language by linear probes, phones by majority, and how the codebooks are used."""
