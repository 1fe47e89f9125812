"""Networks out of artifacts: configuration as JSON, weights as safetensors, nothing unpickled; all of them frozen."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file
from torch import nn

from models.ar_prior import ArPrior
from models.clip import Clip, ClipSpec
from models.config import ArPriorConfig, DecoderConfig, DiffusionPriorConfig, LinearPriorConfig, UpsamplerConfig
from models.decoder import Decoder
from models.diffusion_prior import DiffusionPrior
from models.linear_prior import LinearPrior
from models.pca import Pca
from models.stack import Prior, Stack
from models.upsampler import Upsampler
from unclip.store import Artifact

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


def save_network(out: Path, config: Any, **sizes: int) -> None:
    """Write `config.json`, which with the weights beside it is all that `load_network` needs.

    config: the network's dataclass; sizes: the constructor's other arguments by name (embed_dim, vocab_size, context;
    for `prior_ar` num_components and num_buckets too).
    """
    write_json(out / "config.json", {"network": asdict(config), **sizes})


def load_network(artifact: Artifact, online: bool = False, device: str = "cpu") -> nn.Module:
    """The network of an artifact of one of the kinds in NETWORKS: averaged weights or, where asked, the online ones."""
    sizes = json.loads((artifact.path / "config.json").read_text())
    config_type, build = NETWORKS[artifact.kind]
    network = build(TypeAdapter(config_type).validate_python(sizes.pop("network")), sizes)
    return with_weights(network, artifact.path / ("online.safetensors" if online else "ema.safetensors"), device)


def with_weights(network: nn.Module, path: Path, device: str) -> nn.Module:
    """The network with the weights of a safetensors file, in evaluation mode, frozen, on a device."""
    network.load_state_dict(load_file(path))
    return network.to(device).eval().requires_grad_(False)


def load_clip(artifact: Artifact, device: str = "cpu") -> Clip:
    """The frozen CLIP of a `clip` artifact."""
    clip = Clip(ClipSpec.from_json(json.loads((artifact.path / "clip.json").read_text())))
    with_weights(clip.network, artifact.path / "weights.safetensors", device)
    return clip.to(device).eval().requires_grad_(False)


def save_clip(out: Path, clip: Clip) -> None:
    """Write `clip.json` and `weights.safetensors`."""
    write_json(out / "clip.json", clip.spec.to_json())
    save_weights(out / "weights.safetensors", clip.network)


def load_pca(artifact: Artifact, device: str = "cpu") -> Pca:
    """The principal components of a `pca` artifact."""
    record = json.loads((artifact.path / "pca.json").read_text())
    pca = Pca(record["embed_dim"], record["num_components"], record["num_buckets"])
    with_weights(pca, artifact.path / "pca.safetensors", device)
    return pca


def load_prior(artifact: Artifact, online: bool = False, device: str = "cpu") -> Prior:
    """The prior of a `prior_linear`, `prior_diffusion` or `prior_ar` artifact."""
    prior = load_network(artifact, online, device)
    assert isinstance(prior, Prior)
    return prior


def load_decoder(artifact: Artifact, online: bool = False, device: str = "cpu") -> Decoder:
    """The network of a `decoder` artifact."""
    decoder = load_network(artifact, online, device)
    assert isinstance(decoder, Decoder)
    return decoder


def load_upsampler(artifact: Artifact, online: bool = False, device: str = "cpu") -> Upsampler:
    """The network of an `upsampler_mid` or `upsampler_top` artifact."""
    upsampler = load_network(artifact, online, device)
    assert isinstance(upsampler, Upsampler)
    return upsampler


def save_stack(out: Path, parts: dict[str, Artifact]) -> None:
    """Write `stack.json`: kind, key, digest of each part by stage name, and its path from the published folder.

    `out` is a partial folder; published artifacts lie at `artifacts/KIND/KEY`, two folders apart from each other.
    """
    record = {
        stage: {"kind": part.kind, "key": part.key, "digest": part.digest, "path": f"../../{part.kind}/{part.key}"}
        for stage, part in parts.items()
    }
    write_json(out / "stack.json", {"parts": record})


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


def load_stack(stack: Artifact, online: bool = False, device: str = "cpu") -> Stack:
    """The whole stack of an `assemble` artifact, with averaged weights or, where asked, the online ones."""
    parts = stack_parts(stack)
    return Stack(
        clip=load_clip(parts["clip"], device),
        priors={name: load_prior(part, online, device) for name, part in parts.items() if name.startswith("prior_")},
        decoder=load_decoder(parts["decoder"], online, device),
        mid=load_upsampler(parts["upsampler_mid"], online, device),
        top=load_upsampler(parts["upsampler_top"], online, device),
    )


def save_weights(path: Path, network: nn.Module) -> None:
    """Write parameters and buffers as safetensors."""
    save_file({name: value.detach().contiguous().clone() for name, value in network.state_dict().items()}, path)


def write_json(path: Path, record: Any) -> None:
    """Write JSON, sorted and indented: the same record gives the same bytes."""
    path.write_text(json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def count_parameters(network: nn.Module) -> int:
    """The number of trained numbers in a network."""
    return sum(parameter.numel() for parameter in network.parameters())
