"""Weights, their average and the optimiser's moments shared out over the ranks: FSDP2 (Zhao et al. 2023).

A rank keeps its part of every tensor and gathers a block's weights when the block runs. What adds up or moves weights
works on parts (`local`); what is written is whole (`whole`), so that a run goes on with or without sharing out.
"""

from typing import cast

import torch
from torch import Tensor, nn


def shard(model: nn.Module, blocks: tuple[type[nn.Module], ...], num_ranks: int, device: str) -> None:
    """Leaves this rank its part of the weights; gradients come as means over the ranks.

    Each of the blocks is gathered by itself, what is left with the model. `loss` may use weights as `forward` may.
    """
    from torch.distributed.device_mesh import init_device_mesh  # 2 s and 100 MB that no other run needs
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    mesh = init_device_mesh(torch.device(device).type, (num_ranks,))
    for block in [module for module in model.modules() if isinstance(module, blocks)]:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    if hasattr(model, "loss"):
        register_fsdp_forward_method(model, "loss")


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor that is shared out; any other as it is. Writing to it writes to the tensor."""
    return cast(Tensor, tensor.to_local()) if hasattr(tensor, "to_local") else tensor


def whole(tensor: Tensor) -> Tensor:
    """A tensor that is shared out, put together, which all ranks do at the same point; any other as it is."""
    return cast(Tensor, tensor.full_tensor()) if hasattr(tensor, "full_tensor") else tensor


def part_of(value: Tensor, like: Tensor) -> Tensor:
    """What of a whole tensor belongs to this rank's part of `like`."""
    if not hasattr(like, "device_mesh"):
        return value
    from torch.distributed.tensor import distribute_tensor

    on_device = value.to(like.device)
    return distribute_tensor(on_device, like.device_mesh, like.placements, src_data_rank=None).to_local()
