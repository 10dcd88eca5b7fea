"""The WaveNet decoder: an optional second decoder of the speech codec, sampled step by step."""
