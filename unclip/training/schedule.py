"""The learning rate of a step: warm-up, then cosine decay to zero or a constant."""

import math

from unclip.training.config import TrainConfig


def num_warmup(config: TrainConfig) -> int:
    """The number of steps until the rate is whole."""
    return min(100, config.num_steps // 10) if config.warmup_steps is None else config.warmup_steps


def learning_rate(config: TrainConfig, step: int) -> float:
    """The rate of step `step`, counted from 0; the last warm-up step is the first at the whole rate."""
    warmup = num_warmup(config)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    if config.decay == "constant":
        return config.learning_rate
    progress = (step - warmup) / (config.num_steps - warmup)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
