"""Principal components from their files."""

import json

from models.pca import Pca
from tasks.files import with_weights
from unclip.artifact import Artifact


def load_pca(artifact: Artifact, device: str = "cpu") -> Pca:
    """The principal components of a `pca` artifact."""
    record = json.loads((artifact.path / "pca.json").read_text())
    pca = Pca(record["embed_dim"], record["num_components"], record["num_buckets"])
    with_weights(pca, artifact.path / "pca.safetensors", device)
    return pca
