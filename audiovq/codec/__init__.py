"""The speech codec: from a waveform to codes, pitch, level and speaker vector, and back."""
