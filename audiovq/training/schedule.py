"""Learning-rate schedules."""


def trapezoid(step: int, warmup_steps: int, max_steps: int, decay_steps: int) -> float:
    """Factor in [0, 1]: a linear rise, a plateau of any length, a linear fall to zero at ``max_steps``.

    The plateau knows nothing of the end (Zhai et al. 2022, section 3.5), so that a run can be prolonged from any
    checkpoint taken on it.
    """
    rise = min(1.0, (step + 1) / max(warmup_steps, 1))
    fall = min(1.0, max(0.0, (max_steps - step) / max(decay_steps, 1)))
    return min(rise, fall)
