"""A CLIP by name: open_clip's models with its weights or a file's, from the hub, or from a folder like there.

`MODEL:WEIGHTS` (WEIGHTS one of open_clip's tags, or a safetensors file), `hf-hub:ORG/NAME`, `local-dir:FOLDER`. As in
open_clip, a folder's tokenizer is in the folder, any other model's is in the repository that its configuration names.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
from open_clip.constants import HF_CONFIG_NAME
from open_clip.pretrained import download_pretrained_from_hf

from models.clip import Clip, ClipSpec
from tasks.text_tower import find_tower
from tasks.tokenizer_files import find_tokenizer, from_folder

FOLDER, HUB = "local-dir:", "hf-hub:"
CONVERT = (
    "no pickle is loaded. If you trust it: safetensors.torch.save_file(open_clip.factory.load_state_dict(FILE), OUT)"
)


def is_pretrained(name: str) -> bool:
    """Whether a name has the form of one of these."""
    return ":" in name


@dataclass(frozen=True)
class Found:
    """A CLIP before its weights are read."""

    spec: ClipSpec
    tokenizer_json: str  # "" of CLIP's byte pairs
    weights: str  # the file

    def load(self) -> Clip:
        """The CLIP with its weights. Raises: ValueError for weights that are another model's."""
        clip = Clip(self.spec, self.tokenizer_json)
        try:
            open_clip.load_checkpoint(clip.network, self.weights)
        except Exception as error:  # of weights that it takes for its own to convert, open_clip raises nearly anything
            first = " ".join((str(error) or repr(error)).split())[:200]
            raise ValueError(
                f"clip.pretrained: {self.weights} does not hold the weights of {self.spec.name!r}: {first}"
            ) from error
        return clip.eval().requires_grad_(False)


def load_pretrained(name: str) -> Clip:
    """The open_clip model that a name means, with its weights. Raises: ValueError as `find_pretrained` and `load`."""
    return find_pretrained(name).load()


def find_pretrained(name: str) -> Found:
    """What a name means: the model, its tokenizer, the file of its weights.

    Raises: ValueError for an unknown model or weights, weights that would have to be unpickled, or a model that is not
    supported.
    """
    if name.startswith(FOLDER):
        found = in_folder(name, Path(name.removeprefix(FOLDER)))
    elif name.startswith(HUB):
        found = on_hub(name)
    else:
        model, _, weights = name.partition(":")
        found = named(model, weights)
    if not found.weights.endswith(".safetensors"):
        raise ValueError(f"clip.pretrained: weights must be safetensors, got {found.weights}; {CONVERT}")
    return found


def specified(name: str) -> ClipSpec:
    """What a name means but its weights and, except beside a text tower of transformers, its tokenizer.

    Raises: ValueError as `find_pretrained`.
    """
    folder = Path(name.removeprefix(FOLDER)) if name.startswith(FOLDER) else None
    if folder is not None:
        spec = spec_of(name, folder / HF_CONFIG_NAME)
    elif name.startswith(HUB):
        spec = spec_of(name, hub_config(name))
    else:
        spec = ClipSpec.from_name(name.partition(":")[0])
    return completed(spec, folder)[0] if spec.tower_name else spec


def named(name: str, weights: str) -> Found:
    """A model of open_clip's list with the preprocessing that its weights ask for, and where they are."""
    spec = ClipSpec.from_name(name)
    tag: dict[str, Any] = open_clip.get_pretrained_cfg(name, weights) if weights else {}
    if not tag and not os.path.isfile(weights):
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
        raise ValueError(f"clip.pretrained: {weights!r} is neither a file nor weights of {name!r}, which has: {tags}")
    if not tag:
        return Found(*completed(spec), weights)
    cfg = {**spec.model_cfg, "quick_gelu": True} if tag.get("quick_gelu") else spec.model_cfg
    preprocess = {key: value for key, value in tag.items() if key != "size"}  # the network's, as open_clip has it
    found = completed(ClipSpec.of_model(name, cfg, preprocess))
    with told_of_fetching(f"{name}:{weights}"):
        return Found(*found, str(open_clip.download_pretrained(tag)))


def in_folder(name: str, folder: Path) -> Found:
    """What a folder in open_clip's layout holds: open_clip_config.json, weights, tokenizer.json where it is needed."""
    weights = sorted(folder.glob("*.safetensors"), key=lambda path: (not path.name.startswith("open_clip"), path.name))
    if not folder.is_dir():
        raise ValueError(f"clip.pretrained: {folder} is no folder")
    if not weights:
        pickled = ", ".join(sorted(path.name for kind in ("*.bin", "*.pt", "*.pth") for path in folder.glob(kind)))
        instead = f", only {pickled}; {CONVERT}" if pickled else ""
        raise ValueError(f"clip.pretrained: {folder} has no *.safetensors{instead}")
    return Found(*completed(spec_of(name, folder / HF_CONFIG_NAME), folder), str(weights[0]))


def on_hub(name: str) -> Found:
    """What a repository of the hub holds; fetched, or found in the hub's own cache."""
    found = completed(spec_of(name, hub_config(name)))
    with told_of_fetching(name):
        return Found(*found, str(download_pretrained_from_hf(name.removeprefix(HUB))))


def hub_config(name: str) -> Path:
    """The configuration in a repository of the hub; fetched, or found in the hub's own cache."""
    with told_of_fetching(name):
        return Path(download_pretrained_from_hf(name.removeprefix(HUB), filename=HF_CONFIG_NAME))


@contextmanager
def told_of_fetching(name: str) -> Iterator[None]:
    """Raises: ValueError, a line, where the hub's files cannot be had."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        told = " ".join(str(error).split())[:200]
        raise ValueError(
            f"clip.pretrained: {name} cannot be fetched ({FOLDER}FOLDER needs no network): {told}"
        ) from error


def completed(spec: ClipSpec, folder: Path | None = None) -> tuple[ClipSpec, str]:
    """A specification with its text tower and tokenizer, and the tokenizer.json; of a folder or of the hub."""
    if spec.tower_name:
        return find_tower(spec, folder)
    return find_tokenizer(spec, from_folder(folder) if folder else None)


def spec_of(name: str, config: Path) -> ClipSpec:
    """What an open_clip_config.json says."""
    try:
        said = json.loads(config.read_text())
        return ClipSpec.of_model(name, said["model_cfg"], said.get("preprocess_cfg", {}))
    except OSError as error:
        raise ValueError(f"clip.pretrained: {config} cannot be read: {error.strerror}") from error
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"clip.pretrained: {config} is no configuration of open_clip's: {error!r}") from error
