"""Networks as files: configuration as JSON, weights as safetensors; no network is imported for it."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import nn


def save_network(out: Path, config: Any, **sizes: int) -> None:
    """Write `config.json`, which with the weights beside it is all that `tasks.loading.load_network` needs.

    config: the network's dataclass; sizes: the constructor's other arguments by name (embed_dim, vocab_size, context,
    pad_id where there is one; for `prior_ar` num_components and num_buckets too).
    """
    write_json(out / "config.json", {"network": asdict(config), **sizes})


def with_weights(network: nn.Module, path: Path, device: str) -> nn.Module:
    """The network with the weights of a safetensors file, in evaluation mode, frozen, on a device."""
    network.load_state_dict(load_file(path))
    return network.to(device).eval().requires_grad_(False)


def save_weights(path: Path, network: nn.Module) -> None:
    """Write parameters and buffers as safetensors."""
    save_file({name: value.detach().contiguous().clone() for name, value in network.state_dict().items()}, path)


def write_json(path: Path, record: Any) -> None:
    """Write JSON, sorted and indented: the same record gives the same bytes."""
    path.write_text(json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def count_parameters(network: nn.Module) -> int:
    """The number of trained numbers in a network."""
    return sum(parameter.numel() for parameter in network.parameters())
