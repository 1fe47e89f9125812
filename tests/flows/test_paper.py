"""The pipeline `paper` beside the paper: App. C, table 3, row by row, and what its text says besides."""

from collections.abc import Iterable
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.config import load_pipeline

ROOT = Path(__file__).resolve().parents[2]

# A dot: there is no such setting. A dash of the paper's is 0, or [], where there is.
TABLE_3 = """
                            prior_ar   prior_diffusion   decoder     upsampler_mid   upsampler_top

network.num_steps           .          1000              1000        1000            1000
network.schedule            .          cosine            cosine      cosine          linear
sampling_steps              .          64                250         27              15
network.crop_fraction       .          .                 .           0.25            0.25
network.unet.channels       .          .                 512         320             192
network.unet.depth          .          .                 3           3               2
network.unet.multiples      .          .                 [1,2,3,4]   [1,2,3,4]       [1,1,2,2,4,4]
network.unet.head_channels  .          .                 64          .               .
network.unet.attention_px   .          .                 [32,16,8]   []              []
network.caption.width       2048       2048              2048        .               .
network.caption.depth       24         24                24          .               .
network.caption.heads       32         32                32          .               .
network.width               1664       2048              .           .               .
network.depth               24         24                .           .               .
network.heads               26         32                .           .               .
network.dropout_prob        0.0        0.0               .           .               .
network.unet.dropout_prob   .          .                 0.1         0.1             0.0
train.weight_decay          4.0e-2     6.0e-2            0.0         0.0             0.0
train.optimizer             adam       adam              adam        adam            adam
train.batch_size            4096       4096              2048        1024            512
train.num_steps             1000000    600000            800000      1000000         1000000
train.learning_rate         1.6e-4     1.1e-4            1.2e-4      1.2e-4          1.0e-4
train.beta1                 0.9        0.9               0.9         0.9             0.9
train.beta2                 0.91       0.96              0.999       0.999           0.999
train.eps                   1.0e-10    1.0e-6            1.0e-8      1.0e-8          1.0e-8
train.ema_decay             0.999      0.9999            0.9999      0.9999          0.9999
"""
STEPS = {
    "prior_diffusion": "assemble.prior_steps",
    "decoder": "assemble.decoder_steps",
    "upsampler_mid": "assemble.mid_steps",
    "upsampler_top": "assemble.top_steps",
}
TEXT = {
    "clip.network.embed_dim": 1024,  # §2.2
    "clip.network.vision.image_px": 256,  # App. C: ViT-H/16 at 256 px
    "clip.network.vision.patch_px": 16,
    "clip.network.vision.width": 1280,
    "clip.network.vision.layers": 32,
    "clip.network.text.context": 256,  # table 3, of every text encoder
    "clip.network.text.width": 1024,
    "clip.network.text.layers": 24,
    "clip.train.learning_rate": 3.0e-4,
    "clip.train.sam_rho": 0.1,
    "pca.num_components": 319,  # §2.2
    "pca.num_buckets": 1024,
    "prior_ar.network.condition_drop_prob": 0.1,
    "prior_diffusion.network.condition_drop_prob": 0.1,
    "decoder.network.image_px": 64,  # §2.1
    "decoder.network.num_image_tokens": 4,
    "decoder.network.image_drop_prob": 0.1,
    "decoder.network.caption_drop_prob": 0.5,
    "upsampler_mid.network.high_px": 256,
    "upsampler_mid.network.degradation": "blur",
    "upsampler_top.network.high_px": 1024,
    "upsampler_top.network.degradation": "bsr_light",
    "assemble.num_candidates": 2,  # §2.2
    "assemble.decoder_sampler": "ddpm",  # table 3: learned variance
}
OURS = {  # what small networks need, off
    "clip.gray_prob": 0.0,
    "clip.train.optimizer": "adam",
    "decoder.network.snr_gamma": None,
    "decoder.network.high_noise_weight": 1.0,
    "decoder.network.unet.patch": 1,
    "upsampler_mid.network.prediction": "eps",
    "upsampler_mid.network.unet.patch": 1,
    "upsampler_top.network.prediction": "eps",
    "upsampler_top.network.unet.patch": 1,
}


STAGES, *ROWS = [line.split() for line in TABLE_3.splitlines() if line]


def column(stage: str) -> dict[str, Any]:
    """The column of a stage: values by the paths of its settings."""
    cells = {row[0]: row[1 + STAGES.index(stage)] for row in ROWS}
    paths = {row: STEPS.get(stage, "") if row == "sampling_steps" else f"{stage}.{row}" for row in cells}
    return {paths[row]: yaml.safe_load(cell) for row, cell in cells.items() if cell != "."}


def settings(paths: Iterable[str]) -> dict[str, Any]:
    """What `paper` says, by the paths of its settings; lists for tuples."""
    pipeline = load_pipeline(ROOT / "pipelines.yaml", "paper")
    values = {path: attrgetter(path)(pipeline) for path in paths}
    return {path: list(value) if isinstance(value, tuple) else value for path, value in values.items()}


@pytest.mark.parametrize("stage", STAGES)
def test_a_column_of_table_3(stage: str) -> None:
    assert settings(column(stage)) == column(stage)


@pytest.mark.parametrize("said", [TEXT, OURS], ids=["text", "ours"])
def test_what_the_text_says_besides(said: dict[str, Any]) -> None:
    assert settings(said) == said
