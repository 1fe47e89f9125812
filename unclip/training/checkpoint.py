"""A training state as one safetensors file: tensors by name, the rest as JSON in its header; no pickle."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from unclip.training.sharding import local, part_of, whole
from unclip.training.state import State


def save_checkpoint(state: State, path: Path, record: dict[str, Any], *, writes: bool = True) -> None:
    """Replaces the checkpoint at `path` whole or not at all; `record` is JSON that comes back with it.

    writes: whether this rank writes the file; where the state is shared out, the others have to come here too.
    """
    tensors = _tensors(state) | {f"sums.{name}": value for name, value in state.sums.items()}
    header = {"step": state.step, "num_summed": state.num_summed, "record": record}
    _write(tensors, path, {"state": json.dumps(header)}, writes)


@torch.no_grad()
def load_checkpoint(state: State, path: Path) -> dict[str, Any]:
    """Fills the state from a checkpoint of the same network; its record."""
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["state"])
        for name, value in _tensors(state).items():
            local(value).copy_(part_of(file.get_tensor(name), value))
        device = next(state.model.parameters()).device
        sums = [name for name in file.keys() if name.startswith("sums.")]  # noqa: SIM118
        state.sums = {name.removeprefix("sums."): file.get_tensor(name).to(device) for name in sums}
    state.step, state.num_summed = header["step"], header["num_summed"]
    record: dict[str, Any] = header["record"]
    return record


def save_weights(model: nn.Module, path: Path, *, writes: bool = True) -> None:
    """The model's state dict, whole or not at all; loads with `load_state_dict`. writes: as in `save_checkpoint`."""
    _write(model.state_dict(), path, {"format": "pt"}, writes)


def _write(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str], writes: bool) -> None:
    """A safetensors file written aside, flushed to the disk and renamed; a failed write leaves the old file."""
    partial = path.with_name(path.name + ".partial")
    plain = {}
    for name, tensor in tensors.items():
        value = whole(tensor.detach())  # one at a time: together they may not fit the device
        if writes:
            plain[name] = value.cpu().contiguous().clone()
    if not writes:
        return
    try:
        save_file(plain, partial, metadata)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def _tensors(state: State) -> dict[str, Tensor]:
    """The tensors that live as long as the state, by name, each once however often it is shared."""
    tensors = {f"optimizer.{name}": value for name, value in state.optimizer.tensors().items()}
    for part, model in {"online": state.model, "ema": state.average}.items():
        tensors |= {f"{part}.{name}": value for name, value in model.named_parameters()}
        tensors |= {f"{part}.{name}": value for name, value in model.named_buffers()}
    return tensors
