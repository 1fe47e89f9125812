"""How near predicted embeddings come to the true ones: the figures that no cosine may be without."""

from typing import Any

from numpy.typing import NDArray

from unclip.metrics.clip_score import mean_cosine
from unclip.metrics.diversity import diversity
from unclip.metrics.fid import frechet_distance
from unclip.metrics.retrieval import retrieval_figures


def embedding_figures(predicted: NDArray[Any], truth: NDArray[Any], reference: NDArray[Any]) -> dict[str, float]:
    """Mean cosine, distance of the sets, diversity and ranks of unit embeddings (N, D), reference (M, D).

    Cosine alone misleads: it rises as sampling loses its diversity. One row has neither distance nor diversity.
    """
    figures = {"cosine": mean_cosine(predicted, truth)}
    if len(truth) > 1:
        figures |= {"frechet": frechet_distance(reference, predicted), "diversity": diversity(predicted)}
    return {**figures, **retrieval_figures(predicted, truth)}
