"""What codes know: linear probes for the speaker and the language, and how the codebooks are used."""
