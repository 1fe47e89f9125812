"""Stage `clip`: a frozen CLIP, trained here from scratch or loaded by name, that must see what captions say."""

import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from open_clip.transformer import ResidualAttentionBlock
from torch import Generator, Tensor, nn
from torchvision.transforms.functional import rgb_to_grayscale

from models.clip import Clip, ClipSpec
from models.tokenizer import seen_ids
from tasks import train
from tasks.clip_batches import HardBatches
from tasks.clip_files import save_clip
from tasks.config import ClipStage
from tasks.context import Context
from tasks.files import count_parameters
from tasks.pretrained import load_pretrained
from tasks.zero_shot import accuracies, questions, require_zero_shot
from unclip.data.pictures import Pictures
from unclip.data.shards import ShardReader
from unclip.metrics.retrieval import retrieval_figures
from unclip.training.job import Batch, Indices, Job

VALIDATION_ROWS = 256
UNSEEN_QUESTIONS = 1000  # at least, where there are so many: what combinations never trained on are judged by


class Rows:
    """The pictures, captions and metadata of a split that `filter` kept."""

    def __init__(self, ctx: Context, split: str, px: int) -> None:
        kept = pq.read_table(ctx.one("filter").path / "kept.parquet", columns=["key", "shard", "split"])
        kept = kept.filter(pc.equal(kept["split"], split))
        shards = [artifact.path / "shard.tar" for artifact in ctx.inputs["shards"]]
        shard: NDArray[np.int32] = kept["shard"].to_numpy()
        self.keys: list[str] = kept["key"].to_pylist()
        cache = ctx.cache / f"{split}-{px}.npy"
        self._pictures = Pictures(shards, self.keys, shard, px, cache)
        self.captions: list[str] = [""] * len(self.keys)
        self.metas: list[dict[str, Any]] = [{}] * len(self.keys)
        for number in np.unique(shard):
            reader = ShardReader(shards[number])
            places = {key: i for i, key in enumerate(reader.keys)}
            for row in np.flatnonzero(shard == number):
                place = places[self.keys[row]]
                self.captions[row], self.metas[row] = reader.caption(place), reader.meta(place)

    def __len__(self) -> int:
        return len(self.keys)

    def images(self, rows: Indices) -> Tensor:
        """Pictures as `Clip.encode_image` takes them: uint8 (B, P, P, 3)."""
        return torch.from_numpy(self._pictures[rows]).permute(0, 2, 3, 1)


@dataclass(frozen=True)
class Held:
    """The rows that the CLIP is not trained on."""

    validation: Rows
    test: Rows


def build(ctx: Context) -> dict[str, Any]:
    """Trains or loads the CLIP, writes it and scores it; its metrics.

    Raises: ValueError when an attribute's zero-shot accuracy is under `min_zero_shot`.
    """
    config: ClipStage = ctx.config
    if config.pretrained is None:
        return train.run(ctx)
    clip = load_pretrained(config.pretrained).to(ctx.device)
    held = Held(*(Rows(ctx, split, clip.spec.image_px) for split in ("validation", "test")))
    metrics = finish(clip, ctx.out, held, config.min_zero_shot)
    shutil.rmtree(ctx.out / train.WORK, ignore_errors=True)  # decoded pictures
    return metrics


def job(ctx: Context) -> Job:
    """The training of a CLIP from scratch on the kept training rows."""
    config: ClipStage = ctx.config
    assert config.network is not None and config.train is not None
    px = config.network.vision.image_px
    rows, held = Rows(ctx, "train", px), Held(Rows(ctx, "validation", px), Rows(ctx, "test", px))
    clip = Clip(ClipSpec.from_config(config.network, seen_ids(rows.captions)))
    tokens = clip.tokenize(rows.captions).long()
    order = HardBatches(rows.metas)

    def batch(indices: Indices) -> Batch:
        chosen = order.rows(indices)
        return {"images": rows.images(chosen), "tokens": tokens[torch.from_numpy(chosen)]}

    return Job(
        model=clip,
        loss=partial(loss, gray_prob=config.gray_prob),
        batch=batch,
        num_rows=len(rows),
        keys=lambda indices: [rows.keys[row] for row in order.rows(indices)],
        train=config.train,
        validate=(lambda model: validate(model, held.validation)) if len(held.validation) else None,
        finish=lambda model, out: finish(model, out, held, config.min_zero_shot),
        blocks=(ResidualAttentionBlock,),
        units=(ResidualAttentionBlock,),
        example=clip.example_inputs(),
    )


def loss(
    model: nn.Module, batch: Batch, generator: Generator, gray_prob: float = 0.0
) -> tuple[Tensor, dict[str, Tensor]]:
    """The contrastive loss of a batch, some of its pictures without their colours."""
    assert isinstance(model, Clip)
    return model.loss(without_colors(batch["images"], gray_prob, generator), batch["tokens"])


def without_colors(images: Tensor, prob: float, generator: Generator) -> Tensor:
    """Pictures (B, P, P, 3), each gray with this probability (Chen et al. 2020, App. A); not the paper's.

    A shape that was seen in some colours alone is known in others then: docs/log.md has what that is worth.
    """
    if not prob:
        return images
    chosen = torch.rand(len(images), generator=generator, device=generator.device) < prob
    gray = rgb_to_grayscale(images.movedim(-1, 1), num_output_channels=3).movedim(1, -1)
    return torch.where(chosen.to(images.device)[:, None, None, None], gray, images)


@torch.no_grad()
def validate(model: nn.Module, held: Rows) -> dict[str, float]:
    """Contrastive loss of the same held-out pairs at every call, and how often a caption finds its picture."""
    assert isinstance(model, Clip)
    chosen = np.unique(np.linspace(0, len(held) - 1, VALIDATION_ROWS).astype(np.int64))
    device = model.pixel_mean.device
    images = held.images(chosen).to(device)
    tokens = model.tokenize([held.captions[row] for row in chosen]).to(device)
    value, _ = model.loss(images, tokens)
    zi, zt = model(images, tokens)
    ranks = retrieval_figures(zt.double().cpu().numpy(), zi.double().cpu().numpy())
    return {"loss": float(value), **ranks}


def finish(model: nn.Module, out: Path, held: Held, min_zero_shot: float) -> dict[str, Any]:
    """Writes the CLIP and scores it on the held-out rows.

    The gate asks about validation pictures, whose attributes were trained on together; what it tells of combinations
    never trained on (the test split of `shapes`) is a figure, not a condition.
    Raises: ValueError when an attribute's zero-shot accuracy is under `min_zero_shot`, or none could be asked about.
    """
    assert isinstance(model, Clip)
    model.eval()
    asked = questions(held.validation.captions, held.validation.metas)
    if min_zero_shot and not asked and any("objects" in meta for meta in held.validation.metas):
        raise ValueError("clip.min_zero_shot cannot be judged: no validation picture shows one object; get more rows")
    scores = accuracies(model, held.validation.images, asked)
    require_zero_shot(scores, min_zero_shot)
    save_clip(out, model)
    of_unseen = questions(held.test.captions, held.test.metas)
    unseen = accuracies(model, held.test.images, of_unseen[:: max(1, len(of_unseen) // UNSEEN_QUESTIONS)])
    figures = validate(model, held.validation) if len(held.validation) else {}
    zero_shot = {f"zero_shot_{attribute}": score for attribute, score in scores.items()}
    zero_shot |= {f"zero_shot_unseen_{attribute}": score for attribute, score in unseen.items()}
    sizes = {"num_parameters": count_parameters(model), "vocab_size": model.vocab_size, "num_questions": len(asked)}
    return {**figures, **zero_shot, **sizes}
