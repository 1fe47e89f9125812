"""How a stack samples; free of torch."""

from dataclasses import dataclass

from models.config import NO_PRIOR, PRIOR_SAMPLERS

PRIORS = ("prior_diffusion", "prior_ar", "prior_linear")
DRAWN_FROM = (*PRIORS, NO_PRIOR)  # what can take a caption to the decoder


@dataclass(frozen=True, kw_only=True)
class AssembleConfig:
    """Sampling settings that go with a stack: `evaluate` uses them, and `generate` where its caller names no other."""

    prior: str = "prior_diffusion"  # of DRAWN_FROM
    prior_steps: int = 64  # of the diffusion prior (App. C, table 3)
    prior_sampler: str = "analytic"  # of the diffusion prior (App. C, table 3), or "ddpm", "ddim"
    num_candidates: int = 2  # drawn by the diffusion prior, the best by zi·zt kept (§2.2)
    prior_guidance: float = 1.0  # of both trained priors; 1 is off ("guiding the prior hurt", §5.5)
    ar_temperature: float = 1.0  # of the autoregressive prior's codes
    ar_top_p: float = 1.0  # the likeliest of them that together have this probability
    decoder_sampler: str = "ddpm"  # with the learned variance (App. C, table 3), or "ddim"
    decoder_steps: int = 25  # the paper's 250 are too many for a CPU
    mid_steps: int = 27  # of the first upsampler, DDIM (App. C, table 3)
    top_steps: int = 15  # of the second (App. C, table 3)
    guidance: float = 2.0  # of the decoder; 1 is off
    tile_px: int | None = None  # side of the tiles that upsamplers work in where memory asks for it; None is none

    def __post_init__(self) -> None:
        if self.prior not in DRAWN_FROM:
            raise ValueError(f"assemble.prior must be one of {', '.join(DRAWN_FROM)}, got {self.prior!r}")
        for name in ("prior_steps", "num_candidates", "decoder_steps", "mid_steps", "top_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"assemble.{name} must be >= 1, got {getattr(self, name)}")
        if self.decoder_sampler not in ("ddpm", "ddim"):
            raise ValueError(f"assemble.decoder_sampler must be 'ddpm' or 'ddim', got {self.decoder_sampler!r}")
        if self.prior_sampler not in PRIOR_SAMPLERS:
            allowed = ", ".join(PRIOR_SAMPLERS)
            raise ValueError(f"assemble.prior_sampler must be one of {allowed}, got {self.prior_sampler!r}")
        if self.prior_steps == 1 and self.prior_sampler != "analytic":  # every sampler ends on x0 itself
            raise ValueError("assemble.prior_sampler has no effect at prior_steps 1: leave it out, or set more steps")
        for name in ("guidance", "prior_guidance"):
            if getattr(self, name) < 0:
                raise ValueError(f"assemble.{name} must be >= 0, got {getattr(self, name)}")
        if self.ar_temperature <= 0:
            raise ValueError(f"assemble.ar_temperature must be > 0, got {self.ar_temperature}")
        if not 0 < self.ar_top_p <= 1:
            raise ValueError(f"assemble.ar_top_p must be in (0, 1], got {self.ar_top_p}")
