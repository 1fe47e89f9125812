"""What a network computes and keeps, counted without computing it: on the meta device, where tensors have no memory."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12}  # dense bf16 on SXM boards, by NVIDIA's data sheets


def measure(network: nn.Module, inputs: Sequence[Tensor]) -> tuple[int, int]:
    """FLOPs of a call and its backward pass, and bytes that the call keeps for it, as bf16 would.

    FLOPs are those of matrix products, attention and convolutions, 2 a multiplication with addition. What several
    operations keep is counted once; weights are not counted. Attention keeps its matrices here, which a fused kernel
    does not. inputs: on the meta device; the network may be anywhere.
    """
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    meta = {name: value.detach().to("meta").requires_grad_(value.requires_grad) for name, value in tensors.items()}
    own = {value.untyped_storage()._cdata for value in meta.values()}
    kept: dict[int, Any] = {}  # storages, held so that none takes another's place

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    with FlopCounterMode(display=False) as counter:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            outputs = functional_call(network, meta, tuple(inputs))
        outputs = [outputs] if isinstance(outputs, Tensor) else outputs
        torch.stack([output.sum() for output in outputs if isinstance(output, Tensor)]).sum().backward()
    return counter.get_total_flops(), sum(storage.nbytes() for storage in kept.values()) // 2  # float32 here


def peak_flops(device: str) -> float | None:
    """Of a GPU that is known, in bf16; None of another device."""
    return peak_of(torch.cuda.get_device_name(device)) if torch.device(device).type == "cuda" else None


def peak_of(name: str) -> float | None:
    """Of a GPU by the name that its driver gives it; None where it is not known."""
    if "PCIe" in name or "NVL" in name:  # boards of the same name that do less
        return None
    return next((peak for known, peak in PEAK_FLOPS.items() if known in name), None)
