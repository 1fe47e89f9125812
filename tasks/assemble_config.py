"""How a stack samples; free of torch."""

from dataclasses import dataclass

PRIORS = ("prior_diffusion", "prior_ar", "prior_linear")


@dataclass(frozen=True, kw_only=True)
class AssembleConfig:
    """Sampling settings that go with a stack: `evaluate` uses them, and `generate` where its caller names no other."""

    prior: str = "prior_diffusion"  # of PRIORS
    prior_steps: int = 64  # of the diffusion prior (App. C, table 3)
    num_candidates: int = 2  # drawn by the diffusion prior, the best by zi·zt kept (§2.2)
    decoder_sampler: str = "ddpm"  # with the learned variance (App. C, table 3), or "ddim"
    decoder_steps: int = 25  # the paper's 250 are too many for a CPU
    mid_steps: int = 27  # of the first upsampler, DDIM (App. C, table 3)
    top_steps: int = 15  # of the second (App. C, table 3)
    guidance: float = 2.0  # of the decoder; 1 is off
    tile_px: int | None = None  # side of the tiles that upsamplers work in where memory asks for it; None is none

    def __post_init__(self) -> None:
        if self.prior not in PRIORS:
            raise ValueError(f"assemble.prior must be one of {', '.join(PRIORS)}, got {self.prior!r}")
        for name in ("prior_steps", "num_candidates", "decoder_steps", "mid_steps", "top_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"assemble.{name} must be >= 1, got {getattr(self, name)}")
        if self.decoder_sampler not in ("ddpm", "ddim"):
            raise ValueError(f"assemble.decoder_sampler must be 'ddpm' or 'ddim', got {self.decoder_sampler!r}")
        if self.guidance < 0:
            raise ValueError(f"assemble.guidance must be >= 0, got {self.guidance}")
