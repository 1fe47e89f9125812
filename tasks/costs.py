"""What the networks of a pipeline cost to train, found on the meta device: no memory, any size."""

from dataclasses import dataclass
from typing import Any

import torch

from models.ar_prior import ArPrior
from models.clip import Clip, ClipSpec
from models.decoder import Decoder
from models.diffusion_prior import DiffusionPrior
from models.pca import Pca
from models.upsampler import Upsampler
from tasks.config import ClipStage
from tasks.files import count_parameters
from tasks.pretrained import specified
from unclip.training.flops import PEAK_FLOPS, measure

FULL_VOCABULARY = 49_408  # open_clip's byte-pair vocabulary
STATE_BYTES = 20  # a parameter: weight, gradient, average and Adam's two moments, float32 each
GPU = "H100"
UTILISATION = 0.4  # of its peak, assumed
PAPER_PARAMETERS = {  # App. C, table 3, "model size"
    "prior_diffusion": 1.0e9,
    "prior_ar": 1.0e9,
    "decoder": 3.5e9,
    "upsampler_mid": 0.7e9,
    "upsampler_top": 0.3e9,
}
WHY_ANOTHER_SIZE = {  # at table 3's own width and depth of the transformer
    "prior_diffusion": (
        2048,
        24,
        "24 blocks of width 2048 are 1.2B, and table 3 has them twice: text encoder and prior",
    ),
    "prior_ar": (
        1664,
        24,
        "a text encoder of 1.3B, 24 blocks of width 1664 with cross-attention of 1.1B, and code tables of 1.1B: "
        "319 components x 1,024 buckets x 1664 to read, and to predict",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Cost:
    """One network and its training; what is counted of a sample is forward and backward together."""

    part: str
    num_parameters: int
    flops: int  # of a sample: matrix products, attention and convolutions, 2 a multiplication with addition
    activation_bytes: int  # of a sample: what is kept for the backward pass, in bf16
    num_samples: int  # steps x batch, twice where a step goes forward and backward twice; 0 where nothing is trained
    remark: str  # why the size is not the paper's

    @property
    def state_bytes(self) -> int:
        """Weights, average, gradients and optimiser."""
        return STATE_BYTES * self.num_parameters

    @property
    def gpu_hours(self) -> float:
        """Hours of one GPU at UTILISATION."""
        return self.flops * self.num_samples / (PEAK_FLOPS[GPU] * UTILISATION) / 3600


def network_costs(pipeline: Any) -> list[Cost]:
    """Every network of a `flows.config.Pipeline`, built at full size without allocating it.

    A CLIP trained here is counted with open_clip's whole vocabulary; training keeps only the tokens it sees.
    """
    spec = clip_spec(pipeline.clip)
    dim, context = spec.embed_dim, spec.context
    num_codes = pipeline.pca.num_components or dim
    vocab_size = FULL_VOCABULARY if spec.tokenizer is None else spec.tower_vocabulary
    sizes = {"embed_dim": dim, "vocab_size": vocab_size, "context": context}
    with torch.device("meta"):
        networks: dict[str, Clip | DiffusionPrior | ArPrior | Decoder | Upsampler] = {"clip": Clip(spec)}
        if pipeline.decoder is not None:
            pca = Pca(dim, num_codes, pipeline.pca.num_buckets)
            networks |= {
                "prior_diffusion": DiffusionPrior(pipeline.prior_diffusion.network, **sizes),
                "prior_ar": ArPrior(pipeline.prior_ar.network, pca, **sizes),
                "decoder": Decoder(pipeline.decoder.network, **sizes),
                "upsampler_mid": Upsampler(pipeline.upsampler_mid.network),
                "upsampler_top": Upsampler(pipeline.upsampler_top.network),
            }
    found = []
    for part, network in networks.items():
        flops, activation_bytes = measure(network, network.example_inputs())
        stage = getattr(pipeline, part)
        train = stage.train
        found.append(
            Cost(
                part=part,
                num_parameters=count_parameters(network),
                flops=flops,
                activation_bytes=activation_bytes,
                num_samples=train.num_steps * train.batch_size * train.num_passes if train else 0,
                remark=remark_on(part, stage.network),
            )
        )
    return found


def remark_on(part: str, network: Any) -> str:
    """Why a network of table 3 has not the size that table 3 says; nothing of another."""
    width, depth, why = WHY_ANOTHER_SIZE.get(part, (0, 0, ""))
    return why if why and (network.width, network.depth) == (width, depth) else ""


def clip_spec(stage: ClipStage) -> ClipSpec:
    """What a pipeline's CLIP is, trained here or named."""
    if stage.network is not None:
        return ClipSpec.from_config(stage.network, range(FULL_VOCABULARY))
    assert stage.pretrained is not None
    return specified(stage.pretrained)
