"""Whether a CLIP sees what captions say: each attribute's word is swapped for the others, the true one must win."""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.clip import Clip, zero_shot
from unclip.training.job import Indices

OBJECT_ATTRIBUTES = ("shape", "color", "size")
SCENE_ATTRIBUTES = ("background",)
BATCH = 256


@dataclass(frozen=True, kw_only=True)
class Question:
    """Picture `row`, and its caption with one attribute's word in every version; `truth` is the right one."""

    row: int
    attribute: str
    captions: tuple[str, ...]
    truth: int


def questions(captions: Sequence[str], metas: Sequence[Mapping[str, Any]]) -> list[Question]:
    """What can be asked about pictures of single objects whose metadata name attributes that the caption says too."""
    single = [row for row, meta in enumerate(metas) if len(meta.get("objects", ())) == 1]
    stated = {row: attributes_of(metas[row]) for row in single}
    values: dict[str, set[str]] = defaultdict(set)
    for attributes in stated.values():
        for name, value in attributes.items():
            values[name].add(value)
    found = []
    for row in single:
        for name, value in stated[row].items():
            choices = sorted(values[name])
            if len(choices) > 1 and re.search(rf"\b{re.escape(value)}\b", captions[row]):
                versions = tuple(swap_word(captions[row], value, choice) for choice in choices)
                found.append(Question(row=row, attribute=name, captions=versions, truth=choices.index(value)))
    return found


def attributes_of(meta: Mapping[str, Any]) -> dict[str, str]:
    """The attributes of a picture of one object."""
    thing = meta["objects"][0]
    named = {name: thing[name] for name in OBJECT_ATTRIBUTES if name in thing}
    return named | {name: meta[name] for name in SCENE_ATTRIBUTES if name in meta}


def swap_word(caption: str, old: str, new: str) -> str:
    """The caption with another word, its article agreeing."""
    swapped = re.sub(rf"\b{re.escape(old)}\b", new, caption, count=1)
    return re.sub(rf"\ban?(?= {re.escape(new)}\b)", "an" if new[0] in "aeiou" else "a", swapped)


@torch.no_grad()
def accuracies(clip: Clip, images_of: Callable[[Indices], Tensor], asked: Sequence[Question]) -> dict[str, float]:
    """The share of right answers by attribute; images_of: row numbers to pictures as `Clip.encode_image` takes them."""
    device = clip.pixel_mean.device
    right: dict[str, list[bool]] = defaultdict(list)
    for attribute in sorted({question.attribute for question in asked}):
        group = [question for question in asked if question.attribute == attribute]
        for start in range(0, len(group), BATCH):
            some = group[start : start + BATCH]
            images = images_of(np.array([question.row for question in some], np.int64)).to(device)
            tokens = clip.tokenize([caption for question in some for caption in question.captions]).to(device)
            zt = F.normalize(clip.encode_text(tokens), dim=-1).unflatten(0, (len(some), -1))
            answers = zero_shot(F.normalize(clip.encode_image(images), dim=-1), zt).tolist()
            right[attribute] += [a == question.truth for a, question in zip(answers, some, strict=True)]
    return {attribute: sum(hits) / len(hits) for attribute, hits in right.items()}


def require_zero_shot(scores: Mapping[str, float], least: float) -> None:
    """Raises: ValueError that names the first attribute the CLIP cannot tell well enough."""
    for attribute, score in sorted(scores.items(), key=lambda entry: entry[1]):
        if score < least:
            raise ValueError(
                f"this CLIP's zero-shot accuracy on {attribute} is {score:.3f}, clip.min_zero_shot is {least:g}: "
                "train it longer (clip.train.num_steps), larger or at more pixels (clip.network)"
            )
