"""A linear head that rates pictures by their CLIP embeddings: fitted to people's ratings, used as a score and a figure.

N rows, D dimensions. Ridge regression on unit embeddings; its strength is chosen by leaving one out.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from unclip.data.table import Floats, TableInfo

Doubles = NDArray[np.float64]
RIDGES = tuple(10.0**power for power in range(-4, 3))
SAME_CLIP = ("weights_digest", "preprocessing_digest", "dimension")
MIN_RATINGS = 20
HELD_OUT = 0.2  # of the rated images, for the correlations that are told


@dataclass(frozen=True, kw_only=True)
class HeadRecord:
    """What a head says of itself."""

    model: str
    weights_digest: str  # of the CLIP whose embeddings it reads
    preprocessing_digest: str
    dimension: int
    ridge: float
    num_rated: int
    rating_mean: float
    rating_std: float
    held_out: dict[str, float]  # figures of the same fit without these rows, on them


@dataclass(frozen=True)
class Head:
    """A rating of unit image embeddings: weight (D,) and bias."""

    weight: Floats
    bias: float
    record: HeadRecord

    def rate(self, images: Floats) -> Floats:
        """Ratings (N,) of unit embeddings (N, D)."""
        ratings: Floats = np.einsum("nd,d->n", images, self.weight, dtype=np.float32) + np.float32(self.bias)
        return ratings


def fit_head(images: Floats, ratings: Doubles, info: TableInfo, seed: int = 0) -> Head:
    """The head that fits ratings (N,) of unit embeddings (N, D) best; a fifth, drawn by `seed`, told how well.

    Raises: ValueError when there are too few ratings, or they are all the same.
    """
    if len(ratings) < MIN_RATINGS:
        raise ValueError(f"the ratings must be of at least {MIN_RATINGS} images of the dump, got {len(ratings)}")
    if np.ptp(ratings) == 0:
        raise ValueError(f"the ratings must differ from each other; all {len(ratings)} are {ratings[0]:g}")
    order = np.random.default_rng(seed).permutation(len(ratings))
    held_out, rest = np.split(order, [max(4, round(HELD_OUT * len(order)))])
    wide = images.astype(np.float64)
    ridge = best_ridge(wide[rest], ratings[rest])
    tried = fit_ridge(wide[rest], ratings[rest], ridge)
    figures = agreement(wide[held_out] @ tried[0] + tried[1], ratings[held_out])
    weight, bias = fit_ridge(wide, ratings, ridge)
    record = HeadRecord(
        model=info.model,
        weights_digest=info.weights_digest,
        preprocessing_digest=info.preprocessing_digest,
        dimension=info.dimension,
        ridge=ridge,
        num_rated=len(ratings),
        rating_mean=float(ratings.mean()),
        rating_std=float(ratings.std()),
        held_out={"num_rows": len(held_out), **figures},
    )
    return Head(weight.astype(np.float32), bias, record)


def fit_ridge(x: Doubles, y: Doubles, ridge: float) -> tuple[Doubles, float]:
    """Weight and bias of least squares with a penalty of ridge x N on the weight; the bias is free."""
    centre, mean = x.mean(axis=0), y.mean()
    wide = x - centre
    gram = wide.T @ wide + ridge * len(x) * np.eye(x.shape[1]) / x.shape[1]
    weight = np.linalg.solve(gram, wide.T @ (y - mean))
    return weight, float(mean - centre @ weight)


def best_ridge(x: Doubles, y: Doubles) -> float:
    """The strength of RIDGES with the least squared error when each row is predicted from all the others."""
    wide, left = x - x.mean(axis=0), y - y.mean()
    u, s, _ = np.linalg.svd(wide, full_matrices=False)
    errors = []
    for ridge in RIDGES:
        shrink = s**2 / (s**2 + ridge * len(x) / x.shape[1])
        leverage = np.einsum("nk,k,nk->n", u, shrink, u) + 1 / len(x)
        errors.append(float(np.mean(((left - u @ (shrink * (u.T @ left))) / (1 - leverage).clip(1e-6)) ** 2)))
    return RIDGES[int(np.argmin(errors))]


def agreement(predicted: Doubles, truth: Doubles) -> dict[str, float]:
    """Correlation of predictions with ratings, of their ranks, and the root of the mean squared error."""
    from scipy.stats import rankdata

    def correlation(one: Doubles, other: Doubles) -> float:
        spread = float(one.std() * other.std())
        return float(((one - one.mean()) * (other - other.mean())).mean() / spread) if spread else 0.0

    return {
        "pearson": correlation(predicted, truth),
        "spearman": correlation(rankdata(predicted), rankdata(truth)),
        "rmse": float(np.sqrt(np.mean((predicted - truth) ** 2))),
    }


def save_head(head: Head, out: Path) -> None:
    """Write `head.safetensors` and `head.json` into the folder `out`."""
    out.mkdir(parents=True, exist_ok=True)
    save_file({"weight": head.weight, "bias": np.array([head.bias], np.float32)}, out / "head.safetensors")
    (out / "head.json").write_text(json.dumps(asdict(head.record), indent=1, sort_keys=True) + "\n")


def load_head(folder: Path) -> Head:
    """The head in a folder.

    Raises: ValueError when there is none, or a broken one.
    """
    try:
        values: dict[str, Any] = json.loads((folder / "head.json").read_text())
        record, arrays = HeadRecord(**values), load_file(folder / "head.safetensors")
        weight, bias = arrays["weight"].reshape(record.dimension), float(arrays["bias"][0])
    except FileNotFoundError as error:
        raise ValueError(f"{folder} must be a folder that `unclip fit-aesthetic` made: it has no head") from error
    except Exception as error:  # whatever safetensors or JSON say of a damaged file
        raise ValueError(f"{folder} holds a damaged head: {error}") from error
    return Head(weight, bias, record)


def require_same_clip(head: Head, info: TableInfo, where: str) -> None:
    """Raises: ValueError when the head was fitted on another CLIP's embeddings, with the field and both values."""
    for name in SAME_CLIP:
        if getattr(head.record, name) != getattr(info, name):
            raise ValueError(
                f"{where} was fitted on embeddings of {name} {getattr(head.record, name)}, the table has "
                f"{getattr(info, name)}: fit it again on a dump of this CLIP"
            )
