"""The names of the figures an evaluation gives, how each is written, and which way is better."""

import math
from dataclasses import dataclass
from typing import Any

CONDITIONINGS = {
    "real": ("real", "the real picture"),
    "true_embedding": ("true embedding", "the real picture's own image embedding: the upper bound"),
    "prior_diffusion": ("diffusion prior", "the diffusion prior's embedding"),
    "prior_ar": ("autoregressive prior", "the autoregressive prior's embedding"),
    "prior_linear": ("linear prior", "the linear prior's embedding: a baseline"),
    "text_embedding": ("text embedding", "the text embedding in the image embedding's place: a baseline"),
    "caption_only": ("caption only", "the caption alone, no embedding"),
    "chance": ("chance", "guesses by the frequency of attributes; true embeddings under other captions"),
}


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure: its key in `metrics.json`, its heading and meaning, how it is written, which way is better."""

    key: str
    heading: str
    meaning: str
    percent: bool = False
    digits: int = 3  # behind the point, where it is no share
    higher_is_better: bool = True

    def text(self, value: Any) -> str:
        """The value as a person reads it; a dash where there is none."""
        if not isinstance(value, int | float) or not math.isfinite(value):
            return "–"
        return f"{100 * value:.0f} %" if self.percent else f"{value:.{self.digits}f}"


BOUNDS = ("real", "true_embedding", "chance")  # rows that nothing competes with

CONDITIONING_FIGURES = (
    Figure(key="color_accuracy", heading="colour", meaning="every object's colour is right", percent=True),
    Figure(key="shape_accuracy", heading="shape", meaning="every object's shape is right", percent=True),
    Figure(
        key="single_accuracy",
        heading="shape + colour",
        meaning="one object: its shape and colour are right",
        percent=True,
    ),
    Figure(
        key="pair_accuracy",
        heading="both bound",
        meaning="two objects: each has its own shape and colour",
        percent=True,
    ),
    Figure(key="relation_accuracy", heading="+ relation", meaning="and they stand as the caption says", percent=True),
    Figure(key="clip_score", heading="CLIP score", meaning="mean cosine of picture and caption"),
    Figure(key="aesthetic", heading="rating", meaning="mean rating by the aesthetic head", digits=2),
    Figure(
        key="frechet_clip",
        heading="Fréchet",
        meaning="distance to other real held-out pictures, on unit CLIP embeddings",
        higher_is_better=False,
    ),
    Figure(key="precision", heading="precision", meaning="share of pictures that could be real", percent=True),
    Figure(key="recall", heading="recall", meaning="share of real pictures that could be made", percent=True),
)

PRIOR_FIGURES = (
    Figure(key="cosine", heading="cosine", meaning="mean cosine to the true image embedding"),
    Figure(
        key="frechet",
        heading="Fréchet",
        meaning="distance to other real held-out embeddings",
        higher_is_better=False,
    ),
    Figure(
        key="median_rank",
        heading="median rank",
        digits=1,
        meaning="place of the true embedding among the held-out ones",
        higher_is_better=False,
    ),
    Figure(key="recall_at_1", heading="R@1", meaning="share whose true embedding comes first", percent=True),
    Figure(key="recall_at_5", heading="R@5", meaning="share whose true embedding is among five", percent=True),
    Figure(key="diversity", heading="diversity", meaning="mean 1 - cosine between captions"),
    Figure(key="diversity_within", heading="within", meaning="mean 1 - cosine between draws of one caption"),
)
