"""Training stages in their own process, from real shards and table parts; tiny networks."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from safetensors import safe_open

from models.config import CaptionEncoderConfig, DecoderConfig, UNetConfig, UpsamplerConfig
from tasks.config import DecoderStage, UpsamplerStage
from tasks.context import Context
from tasks.decoder import job
from tasks.train import ROOT, WORK, own_device, run, work
from unclip.artifact import Artifact
from unclip.data.shards import Sample, sample_key, write_shard
from unclip.data.table import Embedded, TableInfo, write_part
from unclip.training.config import TrainConfig

PUBLISHED = ["config.json", "curve.jsonl", "ema.safetensors", "online.safetensors"]
ROWS = 24
UNET = UNetConfig(channels=16, multiples=(1,), depth=1, head_channels=8)
NETWORK = DecoderConfig(image_px=8, unet=UNET, caption=CaptionEncoderConfig(width=16, depth=1, heads=2), num_steps=50)
BUILD = """
import signal
import sys
from pathlib import Path
from tasks.context import Context
from tasks.train import run
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what it runs aside
run(Context.from_json(Path(sys.argv[1]).read_text()))
"""


def picture(value: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((16, 16, 3), value, np.uint8)).save(out, format="PNG")
    return out.getvalue()


def made(folder: Path, kind: str) -> Artifact:
    folder.mkdir(parents=True)
    return Artifact(kind, "0" * 64, folder, "0" * 64)


def add_shard(root: Path, shard: int) -> tuple[Artifact, Artifact]:
    """A shard of grey pictures and its part; row 0 of the shard has no row in the part."""
    source, embed = made(root / f"source{shard}", "source"), made(root / f"embed{shard}", "embed")
    keys = [sample_key(shard, row) for row in range(ROWS + 1)]
    samples = [
        Sample(key=key, image=picture(i), extension="png", caption="a", sample_id=bytes(16))
        for i, key in enumerate(keys)
    ]
    write_shard(source.path / "shard.tar", samples)
    draws = np.random.default_rng(shard).standard_normal((2, ROWS, 6)).astype(np.float32)
    tokens = np.tile(np.array([3, 1, 4, 0], np.int32), (ROWS, 1))
    rows = Embedded(
        keys=keys[1:], sample_ids=[bytes(16)] * ROWS, image_sha256=[bytes(32)] * ROWS,
        image=draws[0], text=draws[1], tokens=tokens, captions=["a"] * ROWS,
    )  # fmt: skip
    info = TableInfo(
        model="m", weights_digest="w", preprocessing_digest="p", tokenizer="t", context=4, dimension=6,
        compute_type="fp32", versions="{}", shard_digest="s", num_rows=ROWS,
    )  # fmt: skip
    write_part(embed.path / "part.parquet", rows, info)
    return source, embed


def add_select(root: Path, num_shards: int, held: str = "validation", num_held: int = 6) -> Artifact:
    select = made(root / "select", "select")
    rows = [(sample_key(s, r + 1), s, r) for s in range(num_shards) for r in range(ROWS)]
    split = ["train"] * (len(rows) - num_held) + [held] * num_held
    key, shard, row = zip(*rows, strict=True)
    columns = {"key": key, "shard": pa.array(shard, pa.int32()), "row": pa.array(row, pa.int32()), "split": split}
    pq.write_table(pa.table(columns), select.path / "kept.parquet")
    return select


def train_config(**changes: Any) -> TrainConfig:
    settings = {"num_steps": 30, "batch_size": 8, "learning_rate": 1e-3, "checkpoint_every": 4, "log_every": 5}
    return TrainConfig(**{**settings, "validate_every": 10, **changes})


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Artifact, ...]]:
    root = tmp_path_factory.mktemp("inputs")
    shards, embed = zip(*[add_shard(root, shard) for shard in range(2)], strict=True)
    return {"shards": shards, "embed": embed, "select": (add_select(root, 2),)}


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def decoder(inputs: dict[str, tuple[Artifact, ...]], tmp_path: Path) -> Context:
    config = DecoderStage(network=NETWORK, train=train_config())
    out = tmp_path / "a folder, ü"
    out.mkdir()
    return Context(stage="decoder", config=config, inputs=inputs, out=out, seed=5)


def published(ctx: Context) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(ctx.out.iterdir()) if path.name != WORK}


def with_ranks(ctx: Context, num_ranks: int, **changes: Any) -> Context:
    return replace(ctx, config=replace(ctx.config, train=train_config(ranks=num_ranks, **changes)))


def end_when_there(ctx: Context, tmp_path: Path, name: str, number: int) -> float:
    """Builds in another process, signalled when a file of that pattern has content; the seconds it then took."""
    (tmp_path / "context.json").write_text(ctx.to_json())
    parent = subprocess.Popen([sys.executable, "-c", BUILD, str(tmp_path / "context.json")], stderr=subprocess.DEVNULL)
    while not any(path.stat().st_size for path in ctx.out.glob(name)):
        assert parent.poll() is None
        time.sleep(0.001)
    start = time.monotonic()
    parent.send_signal(number)
    parent.wait()
    return time.monotonic() - start


def curve_of(ctx: Context) -> list[dict[str, float]]:
    return [json.loads(line) for line in (ctx.out / "curve.jsonl").read_text().splitlines()]


def workers_on(ctx: Context) -> list[str]:
    """The processes that still train in the context's folder."""
    named = f"^[^ ]+ -m tasks.worker {ctx.out}"  # not the guard, which has the same words later
    found = subprocess.run(["pgrep", "-f", named], capture_output=True, text=True, check=False)
    return found.stdout.split()


def test_a_decoder_trains_and_tells(decoder: Context) -> None:
    told: list[tuple[float, float]] = []
    metrics = run(replace(decoder, progress=lambda done, total, **figures: told.append((done, total))))
    assert sorted(published(decoder)) == PUBLISHED
    assert told[-1] == (30, 30)
    assert metrics["train_rows"] == 2 * ROWS - 6 and metrics["validation_rows"] == 6
    assert metrics["steps_per_s"] > 0 and 0 <= metrics["data_wait_fraction"] < 1
    assert json.loads((decoder.out / "config.json").read_text())["vocab_size"] == 5


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_sigkill_of_everything_then_again_equals_undisturbed(decoder: Context, tmp_path: Path, num_ranks: int) -> None:
    decoder = with_ranks(decoder, num_ranks)
    run(decoder)
    killed = replace(decoder, out=tmp_path / "killed")
    end_when_there(killed, tmp_path, WORK + "/checkpoint-*.safetensors", signal.SIGKILL)
    run(killed)
    assert published(killed) == published(decoder)


def test_what_two_ranks_began_one_finishes(decoder: Context, tmp_path: Path) -> None:
    both = with_ranks(decoder, 2, checkpoint_every=10)
    end_when_there(both, tmp_path, WORK + "/checkpoint-*.safetensors", signal.SIGKILL)
    while workers_on(decoder):
        time.sleep(0.05)
    begun = curve_of(decoder)
    metrics = run(decoder)
    assert (metrics["num_steps"], metrics["num_ranks"]) == (30, 1)
    kept = [row for row in begun if row["step"] <= 10]  # one rank from the start would draw other noise
    assert kept and curve_of(decoder)[: len(kept)] == kept
    assert [row["step"] for row in curve_of(decoder)] == [5, 10, 15, 20, 25, 30]


def test_a_rank_that_dies_ends_the_run(decoder: Context, tmp_path: Path) -> None:
    endless = with_ranks(decoder, 2, num_steps=10**6)
    (tmp_path / "context.json").write_text(endless.to_json())
    parent = subprocess.Popen([sys.executable, "-c", BUILD, str(tmp_path / "context.json")], stderr=subprocess.DEVNULL)
    try:
        while not ((decoder.out / "curve.jsonl").exists() and (decoder.out / "curve.jsonl").stat().st_size):
            time.sleep(0.01)
        _, second = sorted(map(int, workers_on(decoder)))
        os.kill(second, signal.SIGKILL)
        assert parent.wait(timeout=20) != 0
        assert not workers_on(decoder)
    finally:
        parent.kill()  # whatever it trains ends with it


def test_ranks_that_are_not_those_asked_for_are_refused(decoder: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ValueError, match=r"decoder\.train\.ranks is 1, but WORLD_SIZE in the environment 3"):
        work(decoder)


def test_torchrun_starts_ranks_as_we_do(decoder: Context, tmp_path: Path) -> None:
    both = with_ranks(decoder, 2, num_steps=6)
    (both.out / WORK).mkdir()
    (tmp_path / "context.json").write_text(both.to_json())
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*torchrun, "-m", "tasks.worker", str(tmp_path / "context.json")], cwd=ROOT, check=False)
    assert done.returncode == 0 and sorted(published(both)) == PUBLISHED
    assert [row["step"] for row in curve_of(both)] == [5, 6]  # one rank wrote
    assert json.loads((both.out / WORK / "result.json").read_text())["num_ranks"] == 2


@pytest.mark.parametrize(
    ("device", "environment", "own"),
    [
        ("cuda", {}, "cuda"),
        ("cuda", {"RANK": "1", "WORLD_SIZE": "2"}, "cuda:1"),
        ("cuda", {"RANK": "9", "LOCAL_RANK": "1", "WORLD_SIZE": "16"}, "cuda:1"),
        ("cuda:3", {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}, "cuda:3"),
        ("cpu", {"RANK": "9", "LOCAL_RANK": "1", "WORLD_SIZE": "16"}, "cpu"),
    ],
)
def test_a_rank_has_a_device_of_its_own_machine(device: str, environment: dict[str, str], own: str) -> None:
    assert own_device(device, environment) == own


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_ctrl_c_keeps_the_steps_done(decoder: Context, tmp_path: Path, num_ranks: int) -> None:
    endless = with_ranks(decoder, num_ranks, num_steps=10**6, checkpoint_every=10**6)
    seconds = end_when_there(endless, tmp_path, "curve.jsonl", signal.SIGINT)
    assert seconds < 5
    assert "stopped at step" in (endless.out / WORK / "log.txt").read_text()
    assert not workers_on(endless)
    (checkpoint,) = (endless.out / WORK).glob("checkpoint-*.safetensors")
    with safe_open(checkpoint, framework="pt") as file:
        assert json.loads(file.metadata()["state"])["step"] >= 1


def test_pictures_are_those_of_their_keys(decoder: Context) -> None:
    made = job(decoder)
    indices = np.array([0, 41, 23, 7])
    rows = [int(key[-5:]) for key in made.keys(indices)]
    expected = [row / 127.5 - 1 for row in rows]
    np.testing.assert_allclose(made.batch(indices)["x0"].mean((1, 2, 3)).numpy(), expected, atol=1e-6)


def test_an_embedding_of_another_row_is_refused(decoder: Context, tmp_path: Path) -> None:
    swapped = replace(decoder, inputs={**decoder.inputs, "embed": decoder.inputs["embed"][::-1]})
    with pytest.raises(ValueError, match="row 0 is not 00000000001"):
        job(swapped)


def test_a_shard_of_other_keys_is_refused(decoder: Context) -> None:
    swapped = replace(decoder, inputs={**decoder.inputs, "shards": decoder.inputs["shards"][::-1]})
    with pytest.raises(ValueError, match="has no sample 00000000001"):
        job(swapped)


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_a_bad_step_stops_with_stage_and_step(decoder: Context, num_ranks: int) -> None:
    bad = with_ranks(decoder, num_ranks, learning_rate=1e30, clip_norm=0.0, warmup_steps=0)
    with pytest.raises(RuntimeError, match=r"^decoder: .* is (nan|inf) at step \d+; batch of 0000.*log\.txt\)$"):
        run(bad)
    assert not workers_on(bad)


def of_upsampler(decoder: Context, stage: str) -> Context:
    network = UpsamplerConfig(low_px=8, high_px=16, crop_fraction=1.0, unet=UNET, num_steps=50)
    config = UpsamplerStage(network=network, train=train_config(num_steps=4))
    inputs = {"shards": decoder.inputs["shards"], "filter": decoder.inputs["select"]}  # the same columns
    return replace(decoder, stage=stage, config=config, inputs=inputs)


@pytest.mark.parametrize("stage", ["upsampler_mid", "upsampler_top"])
def test_an_upsampler_trains(decoder: Context, stage: str) -> None:
    ctx = of_upsampler(decoder, stage)
    assert work(ctx)["validation_rows"] == 6
    assert sorted(published(ctx)) == PUBLISHED


@pytest.mark.parametrize("stage", ["decoder", "upsampler_mid", "upsampler_top"])
def test_pictures_of_the_test_split_never_validate(decoder: Context, tmp_path: Path, stage: str) -> None:
    tested = replace(decoder, inputs=decoder.inputs | {"select": (add_select(tmp_path, 2, held="test"),)})
    ctx = tested if stage == "decoder" else of_upsampler(tested, stage)
    assert import_module(f"tasks.{stage}").job(ctx).validate is None
