"""Weights, their average and the optimiser's moments shared out over the ranks: FSDP2 (Zhao et al. 2023).

A rank keeps its part of every tensor of more than one number, and gathers a unit's weights when the unit runs. What
adds up or moves weights works on parts (`local`); what is written is whole (`whole`), so that a run goes on with or
without sharing out. In bf16 the gathered weights are cast, and kept so for the backward pass: `train.recompute` spares
them.
"""

from typing import cast

import torch
from torch import Tensor, nn

ENTRIES = ("loss", "sample")  # methods that use a network's weights as `forward` does


def shard(model: nn.Module, units: tuple[type[nn.Module], ...], num_ranks: int, device: str) -> None:
    """Leaves this rank its part of the weights, on the device; gradients come as means over the ranks.

    Modules of the types `units` are gathered one by one, what is left of the model at once. A weight that is one
    number, CLIP's temperature, stays whole on every rank: FSDP2 does not take it, and its gradient is the rank's own.
    """
    from torch.distributed.device_mesh import init_device_mesh  # 0.7 s and 46 MB that no other run needs
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    mesh = init_device_mesh(torch.device(device).type, (num_ranks,))
    numbers = {p for p in model.parameters() if p.ndim == 0}
    for number in numbers:
        number.data = number.data.to(device)
    for unit in [module for module in model.modules() if isinstance(module, units)]:
        fully_shard(unit, mesh=mesh, ignored_params=numbers)
    fully_shard(model, mesh=mesh, ignored_params=numbers)
    for name in ENTRIES:
        if hasattr(model, name):
            register_fsdp_forward_method(model, name)


def let_go(model: nn.Module) -> None:
    """Frees what was gathered of a model for a forward pass that no backward pass follows.

    Else the model would go on with these weights, and an average, which has no backward pass, never see its new ones.
    """
    if hasattr(model, "reshard"):
        model.reshard()


def is_shared(tensor: Tensor) -> bool:
    """Whether the ranks hold parts of a tensor."""
    return hasattr(tensor, "device_mesh")


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor that is shared out; any other as it is. Writing to it writes to the tensor."""
    return cast(Tensor, tensor.to_local()) if hasattr(tensor, "to_local") else tensor


def whole(tensor: Tensor) -> Tensor:
    """A tensor that is shared out, put together, which all ranks do at the same point; any other as it is."""
    return cast(Tensor, tensor.full_tensor()) if hasattr(tensor, "full_tensor") else tensor


def part_of(value: Tensor, like: Tensor) -> Tensor:
    """What of a whole tensor belongs to this rank's part of `like`."""
    if not is_shared(like):
        return value
    from torch.distributed.tensor import distribute_tensor

    on_device = value.to(like.device)
    return distribute_tensor(on_device, like.device_mesh, like.placements, src_data_rank=None).to_local()
