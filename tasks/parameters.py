"""How large the networks of a pipeline are, counted on the meta device: no memory, any size."""

from typing import Any

import torch
from torch import nn

from models.ar_prior import ArPrior
from models.clip import ClipSpec, build_network
from models.decoder import Decoder
from models.diffusion_prior import DiffusionPrior
from models.pca import Pca
from models.upsampler import Upsampler
from tasks.config import ClipStage

FULL_VOCABULARY = 49_408  # open_clip's byte-pair vocabulary


def count_parameters(pipeline: Any) -> dict[str, int]:
    """Parameters of each part of a `flows.config.Pipeline`, built at full size without allocating it.

    A CLIP trained here is counted with open_clip's whole vocabulary; training keeps only the tokens it sees.
    """
    spec = clip_spec(pipeline.clip)
    dim, context = spec.embed_dim, spec.context
    sizes = {"embed_dim": dim, "vocab_size": FULL_VOCABULARY, "context": context}
    num_components = pipeline.pca.num_components or dim
    with torch.device("meta"):
        pca = Pca(dim, num_components, pipeline.pca.num_buckets)
        parts = {
            "clip": build_network(spec.model_cfg),
            "prior_diffusion": DiffusionPrior(pipeline.prior_diffusion.network, **sizes),
            "prior_ar": ArPrior(pipeline.prior_ar.network, pca, **sizes),
            "decoder": Decoder(pipeline.decoder.network, **sizes),
            "upsampler_mid": Upsampler(pipeline.upsampler_mid.network),
            "upsampler_top": Upsampler(pipeline.upsampler_top.network),
        }
        return {name: _count(part) for name, part in parts.items()}


def clip_spec(stage: ClipStage) -> ClipSpec:
    """What a pipeline's CLIP is, trained here or named."""
    if stage.network is not None:
        return ClipSpec.from_config(stage.network, range(FULL_VOCABULARY))
    assert stage.pretrained is not None
    return ClipSpec.from_name(stage.pretrained.partition(":")[0])


def _count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())
