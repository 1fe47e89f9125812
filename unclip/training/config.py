"""How a stage trains: optimiser, schedule, averaging, checkpoints."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of one trained stage. Adam with decoupled weight decay (App. C)."""

    num_steps: int
    batch_size: int
    learning_rate: float
    warmup_steps: int = 100
    decay: str = "cosine"  # "cosine" to zero, or "constant"
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float = 1.0  # 0 is off
    ema_decay: float = 0.999
    precision: str = "bf16"  # autocast: "bf16", or "fp32"
    channels_last: bool = False
    checkpoint_every: int = 500  # steps
    validate_every: int = 500  # steps; 0 is at the end only
    log_every: int = 20  # steps
