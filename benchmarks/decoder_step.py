"""A training step of the decoder's U-Net beside diffusers' conditional U-Net: `python -m benchmarks.decoder_step`.

The two are one architecture here, to the parameter (35.1 M) and the operation: the paper's decoder with 64 channels
instead of 512, 64 px, 81 context tokens of width 256; batch 2, hybrid loss, AdamW; steps in turn in one process,
memory alone. Asked: 1.2 x as fast, less memory. Exit code 1 where a target is missed.
"""

import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.beside import Contest
from models.config import UNetConfig
from models.diffusion import hybrid_loss, q_sample
from models.schedule import named_schedule
from models.unet import Context, UNet

CHANNELS, MULTIPLES, DEPTH, HEAD_CHANNELS, PX, BATCH = 64, (1, 2, 3, 4), 3, 64, 64, 2
TOKENS, WIDTH = 81, 256

Noise = Callable[[Tensor, Tensor], Tensor]  # of xt and t: the six channels of a prediction


def ours() -> tuple[nn.Module, Callable[[], Tensor]]:
    """Our U-Net, and its loss."""
    config = UNetConfig(
        channels=CHANNELS, multiples=MULTIPLES, depth=DEPTH, head_channels=HEAD_CHANNELS, attention_px=(32, 16, 8)
    )
    network = UNet(config, 3, 6, PX, context_width=WIDTH)
    emb, tokens, mask = condition()
    context = Context(tokens=tokens, mask=mask)
    return network, loss(lambda xt, t: network(xt, t, emb, context))


def theirs() -> tuple[nn.Module, Callable[[], Tensor]]:
    """The peer's U-Net, made of the blocks that its unCLIP pipelines use, and the same loss."""
    from diffusers import UNet2DConditionModel

    network = UNet2DConditionModel(
        sample_size=PX,
        in_channels=3,
        out_channels=6,
        down_block_types=("ResnetDownsampleBlock2D", *["SimpleCrossAttnDownBlock2D"] * 3),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=(*["SimpleCrossAttnUpBlock2D"] * 3, "ResnetUpsampleBlock2D"),
        block_out_channels=tuple(CHANNELS * multiple for multiple in MULTIPLES),
        layers_per_block=DEPTH,
        attention_head_dim=HEAD_CHANNELS,
        cross_attention_dim=WIDTH,
        resnet_time_scale_shift="scale_shift",
        class_embed_type="identity",
    ).train()
    emb, tokens, mask = condition()
    return network, loss(
        lambda xt, t: network(xt, t, tokens, class_labels=emb, encoder_attention_mask=mask, return_dict=False)[0]
    )


def condition() -> tuple[Tensor, Tensor, Tensor]:
    """What joins the timestep embedding (B, 4 C), context tokens (B, S, K) and which of them are real (B, S)."""
    return torch.randn(BATCH, 4 * CHANNELS), torch.randn(BATCH, TOKENS, WIDTH), torch.rand(BATCH, TOKENS) < 0.5


def loss(network: Noise) -> Callable[[], Tensor]:
    """The hybrid loss of a network on random pictures."""
    schedule = named_schedule("cosine", 1000)
    x0, noise = torch.rand(BATCH, 3, PX, PX) * 2 - 1, torch.randn(BATCH, 3, PX, PX)
    t = torch.randint(1000, (BATCH,))
    xt = q_sample(x0, t, noise, schedule)

    def value() -> Tensor:
        eps, v = network(xt, t).chunk(2, dim=1)
        return hybrid_loss(eps, v, noise, x0, xt, t, schedule)[0]

    return value


if __name__ == "__main__":
    sys.exit(
        Contest(
            module="benchmarks.decoder_step",
            ours=ours,
            theirs=theirs,
            library="diffusers.models.unets.unet_2d_condition",
            asked={"fp32": 1.2, "bf16": 1.2},
        ).main(__doc__)
    )
