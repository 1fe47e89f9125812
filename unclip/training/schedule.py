"""The learning rate of a step: warm-up, then cosine decay to zero or a constant."""

import math

from unclip.training.config import TrainConfig


def learning_rate(config: TrainConfig, step: int) -> float:
    """The rate of step `step`, counted from 0; the last warm-up step is the first at the whole rate."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    if config.decay == "constant":
        return config.learning_rate
    progress = (step - config.warmup) / (config.num_steps - config.warmup)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
