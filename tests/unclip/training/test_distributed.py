"""Processes that train together: what two of them compute is what one computes on the whole batch."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from unclip.training.config import TrainConfig
from unclip.training.distributed import Ranks
from unclip.training.loop import Step
from unclip.training.order import batch_indices
from unclip.training.state import new_state

torch.set_num_threads(1)

# A CLIP, since its loss alone looks at other rows than its own; a large eps, since keys' biases have no gradient but
# rounding, which Adam would blow up. Arguments: rank, ranks, folder, "copied" or "shared".
TRAIN = """
import os
import sys
from pathlib import Path
import torch
from open_clip.transformer import ResidualAttentionBlock
from safetensors.torch import save_file
from models.clip import Clip, ClipSpec
from models.config import ClipConfig, TextConfig, VisionConfig
from unclip.training.config import TrainConfig
from unclip.training.distributed import Ranks, joined
from unclip.training.loop import Step
from unclip.training.sharding import whole
from unclip.training.state import new_state

rank, count, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
shard = sys.argv[4] == "shared"
torch.set_num_threads(1)
torch.manual_seed(0)
vision = VisionConfig(image_px=8, patch_px=4, width=16, layers=1, head_width=8)
text = TextConfig(context=8, width=16, heads=2, layers=1)
clip = Clip(ClipSpec.from_config(ClipConfig(embed_dim=8, vision=vision, text=text), range(300, 320)))
clip.float()
images = torch.randint(0, 256, (8, 8, 8, 3), dtype=torch.uint8)
tokens = clip.tokenize(["a", "b b", "c", "a d", "e", "f g", "b h", "i a"]).long()
ranks = Ranks(index=rank, count=count)
part = slice(rank * 8 // count, (rank + 1) * 8 // count)
config = TrainConfig(
    num_steps=9, batch_size=8, learning_rate=1e-2, precision="fp32", warmup_steps=0, eps=1e-4, ranks=count, shard=shard,
    clip_norm=0.05,
)
with joined(ranks, folder / f"meeting{count}", "cpu"):
    state = new_state(clip, config, "cpu", units=(ResidualAttentionBlock,))
    step = Step(lambda model, batch, _: model.loss(**batch), config, 0, "cpu", ranks)
    for _ in range(3):
        figures = step(state, {"images": images[part], "tokens": tokens[part]})
        state.advance(config)
    assert ranks.any(rank == count - 1) and not ranks.any(False)
    weights = {
        f"{kind}.{name}": whole(value).contiguous()
        for kind, model in (("online", clip), ("ema", state.average))
        for name, value in model.state_dict().items()
    }
    told = {name: figures[name].reshape(1) for name in ("loss", "grad_norm")}
save_file(weights | told, folder / f"{rank}of{count}.safetensors")
os._exit(0)  # torch aborts at times when shared weights are taken down
"""


# Rank r sees the slope along axis r alone. Arguments: rank, folder.
CLIMB = """
import sys
from pathlib import Path
import torch
from unclip.training.config import TrainConfig
from unclip.training.distributed import Ranks, joined
from unclip.training.loop import Step
from unclip.training.state import new_state

rank, folder = int(sys.argv[1]), Path(sys.argv[2])
ranks = Ranks(index=rank, count=2)
model = torch.nn.Linear(2, 1, bias=False)
torch.nn.init.ones_(model.weight)
config = TrainConfig(num_steps=2, batch_size=2, learning_rate=1e-3, sam_rho=0.1, clip_norm=0, precision="fp32")
with joined(ranks, folder / "meeting", "cpu"):
    step = Step(lambda model, batch, _: (0.5 * model(batch["x"]).square().sum(), {}), config, 0, "cpu", ranks)
    figures = step(new_state(model, config, "cpu"), {"x": torch.eye(2)[rank : rank + 1]})
(folder / f"{rank}.txt").write_text(str(float(figures["grad_norm"])))
"""


def test_every_rank_climbs_along_its_own_gradient(tmp_path: Path) -> None:
    """Along the mean of both gradients each would climb 0.07 of its own slope, not 0.1."""
    ranks = [subprocess.Popen([sys.executable, "-c", CLIMB, str(rank), str(tmp_path)]) for rank in range(2)]
    assert [rank.wait() for rank in ranks] == [0, 0]
    norms = [float((tmp_path / f"{rank}.txt").read_text()) for rank in range(2)]
    assert norms == pytest.approx([1.1 / 2**0.5] * 2)


@pytest.mark.parametrize("weights", ["copied", "shared"])
def test_two_ranks_equal_one(tmp_path: Path, weights: str) -> None:
    for count, kind in ((1, "copied"), (2, weights)):
        ranks = [
            subprocess.Popen([sys.executable, "-c", TRAIN, str(rank), str(count), str(tmp_path), kind])
            for rank in range(count)
        ]
        assert [rank.wait() for rank in ranks] == [0] * count
    alone, first, second = (load_file(tmp_path / f"{name}.safetensors") for name in ("0of1", "0of2", "1of2"))
    for name, value in alone.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], value, atol=2e-5, rtol=1e-4, msg=name)


def test_ranks_share_every_batch() -> None:
    rows = batch_indices(0, 3, 12, 100)
    parts = [Ranks(index=rank, count=3).part(rows) for rank in range(3)]
    assert [len(part) for part in parts] == [4, 4, 4]
    np.testing.assert_array_equal(np.concatenate(parts), rows)


def test_ranks_draw_differently() -> None:
    """The same draws in every rank would halve what a batch tells of the noise."""
    config = TrainConfig(num_steps=1, batch_size=2, learning_rate=1e-3)

    def drawn(rank: int) -> float:
        def loss(model: torch.nn.Module, batch: dict[str, torch.Tensor], generator: torch.Generator):  # type: ignore[no-untyped-def]
            found.append(float(torch.rand(1, generator=generator)) + float(torch.rand(1)))
            return model(batch["x"]).mean(), {}

        found: list[float] = []
        step = Step(loss, config, 0, "cpu", Ranks(index=rank, count=1))
        step(new_state(torch.nn.Linear(2, 1), config, "cpu"), {"x": torch.ones(1, 2)})
        return found[0]

    assert drawn(0) != drawn(1) and drawn(1) == drawn(1)


def test_a_batch_that_ranks_cannot_share_is_refused() -> None:
    with pytest.raises(ValueError, match=r"train.ranks must be a divisor of batch_size, 8, got 3"):
        TrainConfig(num_steps=1, batch_size=8, learning_rate=1.0, ranks=3)


def counted_loss(model: torch.nn.Module, batch: dict[str, torch.Tensor], _: object):  # type: ignore[no-untyped-def]
    error = (model(batch["x"]) - batch["x"]).square().mean()
    return error, {"rows": torch.tensor(float(len(batch["x"])))}


def trained_in(num_parts: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Weights and last figures after three steps, each of a batch in so many parts."""
    torch.manual_seed(0)
    rows = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    config = TrainConfig(
        num_steps=9, batch_size=8, learning_rate=1e-2, precision="fp32", warmup_steps=0, accumulate=num_parts
    )
    state = new_state(torch.nn.Linear(4, 4), config, "cpu")
    step = Step(counted_loss, config, 0, "cpu", Ranks())
    for _ in range(3):
        figures = step(state, {"x": rows})
        state.advance(config)
    return state.model.weight.detach(), figures  # type: ignore[return-value]


def test_a_batch_in_parts_is_the_batch() -> None:
    """Gradients, and so weights, up to rounding; figures are means over the parts."""
    (whole, first), (parts, second) = trained_in(1), trained_in(4)
    torch.testing.assert_close(parts, whole, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(second["loss"], first["loss"])
    assert (float(first["rows"]), float(second["rows"])) == (8, 2)


def test_parts_that_do_not_divide_a_ranks_rows_are_refused() -> None:
    with pytest.raises(ValueError, match=r"train.accumulate must be a divisor of the 4 rows of a rank, got 3"):
        TrainConfig(num_steps=1, batch_size=8, learning_rate=1.0, ranks=2, accumulate=3)
