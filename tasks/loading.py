"""Networks and whole stacks out of artifacts, all of them frozen."""

import json
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from torch import nn

from models.ar_prior import ArPrior
from models.config import ArPriorConfig, DecoderConfig, DiffusionPriorConfig, LinearPriorConfig, UpsamplerConfig
from models.decoder import Decoder
from models.diffusion_prior import DiffusionPrior
from models.linear_prior import LinearPrior
from models.pca import Pca
from models.stack import Prior, Stack
from models.upsampler import Upsampler
from tasks.assemble_config import AssembleConfig
from tasks.clip_files import load_clip
from tasks.files import with_weights, write_json
from unclip.artifact import Artifact

Sizes = dict[str, int]


def build_ar_prior(config: ArPriorConfig, sizes: Sizes) -> ArPrior:
    """The network around a basis whose numbers come with the weights."""
    pca = Pca(sizes["embed_dim"], sizes.pop("num_components"), sizes.pop("num_buckets"))
    return ArPrior(config, pca, **sizes)


NETWORKS: dict[str, tuple[type[Any], Callable[[Any, Sizes], nn.Module]]] = {
    "prior_linear": (LinearPriorConfig, lambda config, sizes: LinearPrior(**sizes)),
    "prior_diffusion": (DiffusionPriorConfig, lambda config, sizes: DiffusionPrior(config, **sizes)),
    "prior_ar": (ArPriorConfig, build_ar_prior),
    "decoder": (DecoderConfig, lambda config, sizes: Decoder(config, **sizes)),
    "upsampler_mid": (UpsamplerConfig, lambda config, sizes: Upsampler(config)),
    "upsampler_top": (UpsamplerConfig, lambda config, sizes: Upsampler(config)),
}


def load_network(artifact: Artifact, weights: str = "ema", device: str = "cpu") -> nn.Module:
    """The network of an artifact of one of the kinds in NETWORKS: its weights averaged ("ema"), "online" or "best"."""
    sizes = json.loads((artifact.path / "config.json").read_text())
    config_type, build = NETWORKS[artifact.kind]
    network = build(TypeAdapter(config_type).validate_python(sizes.pop("network")), sizes)
    return with_weights(network, artifact.path / f"{weights}.safetensors", device)


def load_prior(artifact: Artifact, weights: str = "ema", device: str = "cpu") -> Prior:
    """The prior of a `prior_linear`, `prior_diffusion` or `prior_ar` artifact."""
    prior = load_network(artifact, weights, device)
    assert isinstance(prior, Prior)
    return prior


def load_decoder(artifact: Artifact, device: str = "cpu") -> Decoder:
    """The network of a `decoder` artifact."""
    decoder = load_network(artifact, device=device)
    assert isinstance(decoder, Decoder)
    return decoder


def load_upsampler(artifact: Artifact, device: str = "cpu") -> Upsampler:
    """The network of an `upsampler_mid` or `upsampler_top` artifact."""
    upsampler = load_network(artifact, device=device)
    assert isinstance(upsampler, Upsampler)
    return upsampler


def save_stack(out: Path, parts: dict[str, Artifact], sampling: AssembleConfig) -> None:
    """Write `stack.json`: how it samples, and by stage name each part's kind, key, digest and path from there.

    `out` is a partial folder; published artifacts lie at `artifacts/KIND/KEY`, two folders apart from each other.
    """
    record = {
        stage: {"kind": part.kind, "key": part.key, "digest": part.digest, "path": f"../../{part.kind}/{part.key}"}
        for stage, part in parts.items()
    }
    write_json(out / "stack.json", {"parts": record, "sampling": asdict(sampling)})


def stack_parts(stack: Artifact) -> dict[str, Artifact]:
    """The artifacts that an `assemble` artifact refers to, by stage name.

    Raises: ValueError when one of them is gone or is not the one that was assembled.
    """
    parts = {}
    for stage, record in json.loads((stack.path / "stack.json").read_text())["parts"].items():
        path = (stack.path / record.pop("path")).resolve()
        part = Artifact(path=path, **record)
        if not (path / "manifest.json").exists():
            raise ValueError(f"the stack's {stage} is gone: {path}")
        if part.manifest()["digest"] != part.digest:
            raise ValueError(f"the stack's {stage} at {path} is not the one that was assembled")
        parts[stage] = part
    return parts


def load_sampling(stack: Artifact) -> AssembleConfig:
    """How the stack of an `assemble` artifact samples.

    Raises: ValueError for a stack whose settings are another version's.
    """
    sampling = json.loads((stack.path / "stack.json").read_text())["sampling"]
    if sampling.keys() != {field.name for field in fields(AssembleConfig)}:
        raise ValueError(f"the stack at {stack.path} was assembled by another version: run its pipeline again")
    return AssembleConfig(**sampling)


def load_stack(stack: Artifact, device: str = "cpu") -> Stack:
    """The whole stack of an `assemble` artifact, with averaged weights."""
    parts = stack_parts(stack)
    return Stack(
        clip=load_clip(parts["clip"], device),
        priors={name: load_prior(part, device=device) for name, part in parts.items() if name.startswith("prior_")},
        decoder=load_decoder(parts["decoder"], device),
        mid=load_upsampler(parts["upsampler_mid"], device),
        top=load_upsampler(parts["upsampler_top"], device),
    )
