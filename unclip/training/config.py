"""How a stage trains: optimiser, schedule, averaging, checkpoints; free of torch."""

from dataclasses import dataclass

from unclip.recipe import neutral

DECAYS = ("cosine", "constant")
PRECISIONS = ("bf16", "fp32")
OPTIMIZERS = ("adam", "muon")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of one trained stage."""

    num_steps: int
    batch_size: int
    learning_rate: float
    optimizer: str = "adam"  # with decoupled weight decay (App. C), or "muon" for the matrices of repeated blocks
    warmup_steps: int | None = None  # linear, from zero; None is a tenth of the run, at most 100
    decay: str = "cosine"  # to zero after the warm-up, or "constant"
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0  # of matrices and kernels; biases and gains are left alone
    clip_norm: float = 1.0  # 0 is off
    ema_decay: float = 0.999  # after a warm-up: min(ema_decay, (1 + step) / (10 + step))
    ranks: int = neutral(1)  # processes that share every batch: GPUs, or cores that one process would leave idle
    shard: bool = neutral(False)  # weights, average and moments shared out over the ranks (FSDP2), not copied to each
    accumulate: int = neutral(1)  # parts that a rank works through its batch in, for what fits the memory
    sam_rho: float = 0.0  # radius of sharpness-aware minimisation, on each rank's part of a batch; 0 is off
    recompute: bool = neutral(False)  # blocks' activations are computed again for the backward pass: less memory
    compile: bool = neutral(False)  # torch.compile of each block
    precision: str = "bf16"  # autocast: "bf16", or "fp32"
    channels_last: bool = False
    checkpoint_every: int = neutral(500)  # steps
    keep_last: int = neutral(1)  # checkpoints; a run goes on from the newest
    keep_best: bool = False  # the average with the least validation loss too, as `best.safetensors`
    validate_every: int = 500  # steps; 0 is at the end only
    log_every: int = 20  # steps

    def __post_init__(self) -> None:
        for name in ("num_steps", "batch_size", "checkpoint_every", "log_every", "ranks", "accumulate", "keep_last"):
            _check(name, getattr(self, name), getattr(self, name) >= 1, ">= 1")
        for name in ("learning_rate", "eps"):
            _check(name, getattr(self, name), getattr(self, name) > 0, "> 0")
        for name in ("weight_decay", "clip_norm", "validate_every", "sam_rho"):
            _check(name, getattr(self, name), getattr(self, name) >= 0, ">= 0")
        for name in ("beta1", "beta2", "ema_decay"):
            _check(name, getattr(self, name), 0 <= getattr(self, name) < 1, "in [0, 1)")
        _check("ranks", self.ranks, self.batch_size % self.ranks == 0, f"a divisor of batch_size, {self.batch_size}")
        _check("shard", self.shard, not self.shard or self.ranks > 1, "false where train.ranks is 1")
        for name in ("sam_rho", "channels_last"):  # needs a rank's own gradient; strides that FSDP2 refuses
            _check("shard", self.shard, not (self.shard and getattr(self, name)), f"false with {name}")
        _check("optimizer", self.optimizer, self.optimizer in OPTIMIZERS, f"one of {', '.join(OPTIMIZERS)}")
        for name in ("shard", "channels_last"):  # Muon needs whole matrices; kernels as matrices without a copy
            refused = self.optimizer == "muon" and getattr(self, name)
            _check("optimizer", self.optimizer, not refused, f"adam with {name}")
        part = self.batch_size // self.ranks
        _check("accumulate", self.accumulate, part % self.accumulate == 0, f"a divisor of the {part} rows of a rank")
        _check("decay", self.decay, self.decay in DECAYS, f"one of {', '.join(DECAYS)}")
        _check("precision", self.precision, self.precision in PRECISIONS, f"one of {', '.join(PRECISIONS)}")
        warmup = self.warmup_steps
        allowed = warmup is None or 0 <= warmup < self.num_steps
        _check("warmup_steps", warmup, allowed, f"in [0, num_steps), num_steps being {self.num_steps}")

    @property
    def num_passes(self) -> int:
        """How often a batch goes forward and backward in one step."""
        return 2 if self.sam_rho else 1


def _check(name: str, value: object, is_allowed: bool, allowed: str) -> None:
    """Raises: ValueError naming the setting, its value and what is allowed."""
    if not is_allowed:
        raise ValueError(f"train.{name} must be {allowed}, got {value!r}")
