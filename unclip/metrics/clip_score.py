"""How well pictures fit their captions, by CLIP."""

from unclip.metrics.features import Features, as_rows


def clip_score(image: Features, text: Features) -> float:
    """Mean cosine of image and text embeddings row by row, (N, D) each; in [-1, 1], neither scaled nor clipped."""
    return mean_cosine(image, text)


def mean_cosine(predicted: Features, truth: Features) -> float:
    """Mean cosine of rows that belong together, (N, D) each."""
    one, two = as_rows(predicted, truth, ("predicted", "truth"))
    return float((one * two).sum(axis=1).mean())
