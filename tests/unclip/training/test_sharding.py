"""Weights shared out over ranks: the same training as with copies, killed or not, and on fewer ranks after."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from unclip.training.config import TrainConfig

# Widths that two ranks cannot halve, blocks that are recomputed. A large eps, since keys' biases have no gradient but
# rounding, which Adam would blow up. Arguments: rank, ranks, folder, whether to share out, step to be killed after.
TRAIN = """
import json
import os
import sys
from pathlib import Path
import torch
from torch.nn.functional import normalize
from models.config import CaptionEncoderConfig, DecoderConfig, UNetConfig
from models.decoder import BLOCKS, Decoder
from unclip.training.config import TrainConfig
from unclip.training.distributed import Ranks, joined
from unclip.training.job import Job
from unclip.training.run import Place, Watch, train
from unclip.training.sharding import local
from unclip.training.validation import validation

rank, count, folder, shard, last = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4], int(sys.argv[5])
torch.set_num_threads(1)
torch.manual_seed(0)
unet = UNetConfig(channels=10, depth=1, head_channels=10, attention_px=(4,))
config = DecoderConfig(image_px=8, unet=unet, caption=CaptionEncoderConfig(width=12, depth=1, heads=2))
network = Decoder(config, embed_dim=7, vocab_size=11, context=5)
draw = torch.Generator().manual_seed(1)
rows = {
    "x0": torch.rand(32, 3, 8, 8, generator=draw) * 2 - 1,
    "zi": normalize(torch.randn(32, 7, generator=draw)),
    "tokens": torch.cat([torch.randint(1, 9, (32, 4), generator=draw), torch.full((32, 1), 10)], 1),
}
settings = TrainConfig(
    num_steps=6, batch_size=4, learning_rate=1e-3, precision="fp32", eps=1e-4, ranks=count, shard=shard == "shard",
    recompute=True, checkpoint_every=2, log_every=3, validate_every=3, accumulate=count, keep_last=2,
)


def batch(indices):
    return {name: value[torch.from_numpy(indices)] for name, value in rows.items()}


def loss(model, batch, generator):
    return model.loss(batch["x0"], batch["zi"], batch["tokens"], generator)


def told(self, state, figures, tell=Watch.__call__):
    tell(self, state, figures)
    if state.step == last:
        tensors = [*state.model.parameters(), *state.average.parameters(), *state.optimizer.first.values()]
        (folder / f"held{rank}").write_text(str(sum(local(tensor).numel() for tensor in tensors)))
        ranks.wait()
        os._exit(0)


Watch.__call__ = told
ranks = Ranks(index=rank, count=count)
job = Job(
    model=network, loss=loss, batch=batch, num_rows=32, keys=str, train=settings, blocks=BLOCKS,
    units=BLOCKS,
    validate=validation(loss, batch, 32, 4, "cpu"),
    finish=lambda model, out: {"total": float(sum(p.double().sum() for p in model.parameters()))},
    example=network.example_inputs(),
)
place = Place(stage="decoder", out=folder, work=folder / "work", seed=3, device="cpu", ranks=ranks)
with joined(ranks, folder / f"meeting{last}{count}", "cpu"):
    metrics = train(job, place, lambda *_, **__: None)
if ranks.is_first:
    (folder / "metrics.json").write_text(json.dumps(metrics))
os._exit(0)  # as a worker ends: taking torch down aborted once
"""


def trained(folder: Path, how: str, count: int = 2, last: int = 0) -> Path:
    """The folder after so many ranks trained in it, as copies or sharing out, up to a step (0: the last)."""
    folder.mkdir(exist_ok=True)
    ranks = [
        subprocess.Popen([sys.executable, "-c", TRAIN, str(rank), str(count), str(folder), how, str(last)])
        for rank in range(count)
    ]
    assert [rank.wait() for rank in ranks] == [0] * count
    return folder


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each rank has everything."""
    return trained(tmp_path_factory.mktemp("copies"), "copies")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights are shared out."""
    return trained(tmp_path_factory.mktemp("shared"), "shard")


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, ended a step after a checkpoint."""
    return trained(tmp_path_factory.mktemp("killed"), "shard", last=5)


def close(first: Path, second: Path) -> None:
    """All tensors of two files are the same but for rounding."""
    found, expected = load_file(first), load_file(second)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], atol=1e-5, rtol=1e-4, msg=name)


def rows(folder: Path) -> list[dict[str, float]]:
    """The curve: losses, the norm of the gradients before it is clipped, validation of weights and average."""
    return [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]


def test_sharing_out_learns_what_copies_learn(copies: Path, shared: Path) -> None:
    for name in ("ema.safetensors", "online.safetensors", "work/checkpoint-000000004.safetensors"):
        close(shared / name, copies / name)
    assert rows(copies)[0]["grad_norm"] > 0
    for row, expected in zip(rows(shared), rows(copies), strict=True):
        assert row == pytest.approx(expected, rel=1e-4)


def test_the_finished_network_is_whole(shared: Path) -> None:
    metrics = json.loads((shared / "metrics.json").read_text())
    average = load_file(shared / "ema.safetensors").values()
    assert metrics["total"] == pytest.approx(float(sum(value.double().sum() for value in average)))
    assert metrics["num_parameters"] == sum(value.numel() for value in average)


def test_a_rank_keeps_its_part(shared: Path, killed: Path) -> None:
    everything = 3 * json.loads((shared / "metrics.json").read_text())["num_parameters"]
    held = [int((killed / f"held{rank}").read_text()) for rank in range(2)]
    assert sum(held) == everything and max(held) < 0.6 * everything


def test_killed_and_run_again_equals_undisturbed(shared: Path, killed: Path, tmp_path: Path) -> None:
    again = trained(Path(shutil.copytree(killed, tmp_path / "again")), "shard")
    for name in ("ema.safetensors", "online.safetensors", "curve.jsonl"):
        assert (again / name).read_bytes() == (shared / name).read_bytes(), name


def test_one_rank_goes_on_with_what_two_shared(killed: Path, tmp_path: Path) -> None:
    """Its noise is another; what it starts from is in the weights, which few steps hardly move."""
    alone = trained(Path(shutil.copytree(killed, tmp_path / "alone")), "copies", count=1)
    assert json.loads((alone / "metrics.json").read_text())["num_steps"] == 6
    name = "work/checkpoint-000000004.safetensors"
    before, after = load_file(killed / name), load_file(alone / "online.safetensors")
    for key, value in after.items():
        torch.testing.assert_close(value, before[f"online.{key}"], atol=3e-3, rtol=0, msg=key)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ranks": 1}, r"train.shard must be false where train.ranks is 1, got True"),
        ({"ranks": 2, "sam_rho": 0.1}, r"train.shard must be false with sam_rho, got True"),
        ({"ranks": 2, "channels_last": True}, r"train.shard must be false with channels_last"),
    ],
)
def test_sharing_out_that_cannot_be_is_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig(num_steps=1, batch_size=8, learning_rate=1.0, shard=True, **settings)  # type: ignore[arg-type]
