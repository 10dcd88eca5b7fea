"""The scale of coded pitch: 0 is an unvoiced frame, 1 to `N_VALUES` are quarter semitones upwards of `LOWEST_HZ`."""

UNVOICED = 0
"""Pitch code of a frame without a fundamental."""
LOWEST_HZ = 50.0
"""Fundamental of pitch code 1."""
STEPS_PER_OCTAVE = 48
"""A step is a quarter of a semitone."""
N_VALUES = 176
"""Voiced pitch codes: 50 to 626 Hz."""
CERTAINTY = 0.85
"""Probability from which on a frame is coded as unvoiced. In doubt it gets a pitch: the decoder can turn harmonics down
where a pitch is given, but not make any where there is none (creaky voice, and where voicing begins and ends)."""
