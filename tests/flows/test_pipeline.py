"""The whole shrunken pipeline through the command line, once; what it leaves; and what a second run costs."""

import json
import re
import time
from pathlib import Path

import pytest
from PIL import Image

from flows.graph import STAGES
from tests.flows.asking import listed, posted
from tests.flows.golden import GOLDEN, losses_of
from tests.flows.golden import STAGES as TRAINED_STAGES
from unclip.data.shards import ShardReader, sample_key
from unclip.prefect_server import running_url, start_server
from unclip.report.grid import GAP_PX, MIN_TILE_PX, TEXT_PX
from unclip.store import Store

NAMES = [stage.name for stage in STAGES if stage.name not in ("download", "aesthetic")]
GENERATED = ["prior_diffusion", "prior_ar", "prior_linear", "text_embedding", "caption_only"]
FIGURES = {"single_accuracy", "pair_accuracy", "relation_accuracy", "clip_score", "frechet_clip", "precision", "recall"}
CLIP_MODEL = "ViT-S-32-alt"  # the smallest that open_clip names


@pytest.fixture(scope="module")
def ran(shared):
    return shared("run", "shrunken")


@pytest.fixture(scope="module")
def store(shared, ran):
    return Store(shared.store)


def artifact(store, stage):
    return next(a for a in store.artifacts() if a.kind == stage)


def states(table, stdout):
    """Stage by stage what the printed table says: `made`, `found`, `made 1 of 3`."""
    rows = re.findall(r"^(\w+) +(found|made(?: \d+ of \d+)?)\b", stdout, re.MULTILINE)
    return {stage: said for stage, said in rows if stage in table}


def test_a_run_ends_with_its_table_and_its_report(ran, shared):
    assert ran.returncode == 0, ran.stderr
    assert list(states(NAMES, ran.stdout)) == NAMES
    assert ran.stdout.splitlines()[-1].startswith(f"report: {shared.store}/artifacts/report/")


def test_every_stage_is_on_record(store):
    made = {a.kind: a.manifest() for a in store.artifacts()}
    assert set(made) == {*NAMES, "moments"}  # pieces of pca, one a shard
    assert made["pca"]["parents"]["moments"] and set(made.pop("moments")["parents"]) == {"embed"}
    del made["pca"]["parents"]["moments"]
    for name, manifest in made.items():
        assert manifest["recipe"]["stage"] == name and manifest["files"] and manifest["hardware"]
        assert set(manifest["parents"]) == set(manifest["recipe"]["inputs"])


def test_nothing_is_left_on_its_way(store):
    assert not list(store.root.glob("partial/*"))
    assert not list(store.root.glob("artifacts/*/*/work"))


def test_metrics_have_every_conditioning_with_its_figures(store, shared):
    values = json.loads(shared("metrics", "shrunken", "--json").stdout)
    assert values == json.loads((artifact(store, "evaluate").path / "metrics.json").read_text())["conditionings"]
    assert set(values) == {"real", "true_embedding", *GENERATED, "chance"}
    for kind in ("real", "true_embedding", *GENERATED):
        assert set(values[kind]) >= FIGURES, kind
    assert set(values["chance"]) >= {"single_accuracy", "pair_accuracy", "relation_accuracy"}


def test_recognised_pictures_beat_chance_where_they_are_real(shared):
    values = json.loads(shared("metrics", "shrunken", "--json").stdout)
    assert values["real"]["single_accuracy"] == 1 and values["chance"]["single_accuracy"] < 0.2


def test_the_report_is_one_page_that_loads_nothing(store, shared):
    page = artifact(store, "report").path / "index.html"
    assert shared("report", "shrunken").stdout.strip() == str(page)
    loads = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"'\s>)]+)""", page.read_text())
    assert loads and all(target.startswith(("data:", "#")) for target in loads)


@pytest.mark.parametrize("verb", ["metrics", "report", "funnel", "dropped"])
def test_another_name_is_told_which_there_are(ran, shared, verb):
    asked = shared(verb, "nope")
    said = " ".join(asked.stderr.split())
    assert said.endswith("holds no run of pipeline 'nope', but of shrunken; shrunken.yaml has shrunken")
    assert asked.returncode == 2


def test_a_second_run_finds_everything_and_starts_nothing(ran, shared, store):
    runs = sorted((store.root / "runs").iterdir())
    log = (store.root / "prefect" / "server.log").stat().st_mtime_ns
    began = time.monotonic()
    again = shared("run", "shrunken")
    assert time.monotonic() - began <= 3  # 1 s on an idle machine
    assert again.returncode == 0 and "Prefect" not in again.stderr
    assert (store.root / "prefect" / "server.log").stat().st_mtime_ns == log
    assert sorted((store.root / "runs").iterdir()) == runs and running_url(store.root) is None
    assert set(states(NAMES, again.stdout).values()) == {"found"}


def test_a_plan_of_what_is_there_is_empty(ran, shared):
    plans = json.loads(shared("plan", "shrunken", "--json").stdout)
    assert [p["stage"] for p in plans] == NAMES and all(p["num_missing"] == 0 for p in plans)
    assert "nothing to do" in shared("plan", "shrunken").stdout


def test_a_plan_names_the_setting_that_changed(ran, shared):
    plans = json.loads(shared("plan", "shrunken", "--set", "pca.num_buckets=16", "--json").stdout)
    (first, *after) = [p for p in plans if p["num_missing"]]
    assert (first["stage"], first["why"]) == ("pca", "num_buckets 8 → 16")
    assert [p["stage"] for p in after] == ["prior_ar", "assemble", "evaluate", "report"]


def test_a_plan_says_what_networks_cost_where_asked(shared):
    said = shared("plan", "shrunken", "--costs").stdout
    (row,) = re.findall(r"^decoder +(\d[\d.]*[kM]) +3\.5B +.* (\S+)$", said, re.MULTILINE)
    assert float(row[1]) < 1  # GPU hour
    assert "networks of shrunken" not in shared("plan", "shrunken").stdout
    refused = shared("plan", "shrunken", "--costs", "--json")
    assert refused.returncode == 2 and "--costs has no place in --json" in refused.stderr


def test_a_plan_expects_twice_the_samples_to_take_twice_as_long(ran, shared, store):
    plans = json.loads(shared("plan", "shrunken", "--set", "decoder.train.num_steps=40", "--json").stdout)
    (expected,) = [p["seconds"] for p in plans if p["stage"] == "decoder"]
    assert expected == pytest.approx(2 * artifact(store, "decoder").manifest()["seconds"], abs=0.1)


@pytest.mark.parametrize("stage", TRAINED_STAGES)
def test_twenty_steps_of_a_stage_lose_what_they_did(store, stage):
    losses, golden = losses_of(store.root)[stage], json.loads(GOLDEN.read_text())[stage]
    assert len(losses) == 20
    assert losses == pytest.approx(golden, rel=2e-3)  # another processor rounds otherwise


def test_mlflow_shows_each_stage_below_its_run(store):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{store.root}/mlflow/mlflow.db")
    experiment = client.get_experiment_by_name("shrunken")
    runs = client.search_runs([experiment.experiment_id])
    (top,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    nested = {run.info.run_name: run for run in runs if run.data.tags.get("mlflow.parentRunId") == top.info.run_id}
    assert set(nested) == set(NAMES) and {run.info.status for run in runs} == {"FINISHED"}
    decoder = nested["decoder"]
    assert decoder.data.params and "loss" in " ".join(decoder.data.metrics)
    assert {i.dataset.name for i in decoder.inputs.dataset_inputs} == {"shards", "embed", "select"}
    assert any(f.path.endswith("samples.png") for f in listed(client, nested["evaluate"].info.run_id))


def test_the_funnel_is_on_the_terminal_and_in_mlflow(ran, shared, store):
    from mlflow import MlflowClient

    steps = json.loads(shared("funnel", "shrunken", "--json").stdout)
    client = MlflowClient(f"sqlite:///{store.root}/mlflow/mlflow.db")
    experiment = client.get_experiment_by_name("shrunken")
    runs = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"])
    (top, *_) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    shown = json.loads(Path(client.download_artifacts(top.info.run_id, "funnel_table.json")).read_text())
    assert [dict(zip(shown["columns"], row, strict=True)) for row in shown["data"]] == steps
    assert "rows: 360 of the source, " in ran.stdout and top.data.metrics["rows_in"] == 360 == steps[0]["rows_in"]


def test_dropped_rows_are_listed_as_the_funnel_counts_them(shared, ran, tmp_path):
    steps = json.loads(shared("funnel", "shrunken", "--json").stdout)
    rows = json.loads(shared("dropped", "shrunken", "--json").stdout)
    assert len(rows) == sum(step["dropped"] for step in steps)
    done = shared("dropped", "shrunken", "--out", tmp_path / "rows.csv")
    assert done.returncode == 0 and len((tmp_path / "rows.csv").read_text().splitlines()) == len(rows) + 1
    assert "--reason must be one of" in shared("dropped", "shrunken", "--reason", "ugly").stderr


def test_prefect_shows_the_run_and_a_task_a_stage(store):
    server = start_server(store.root)
    url = server.wait()
    (flow_run,) = posted(f"{url}/flow_runs/filter")
    tasks = posted(f"{url}/task_runs/filter")
    server.close()
    assert (flow_run["name"], flow_run["state_type"]) == ("shrunken", "COMPLETED")
    assert sorted(task["name"].rpartition("-")[0] for task in tasks) == sorted(NAMES)
    assert {task["state_type"] for task in tasks} == {"COMPLETED"}


def test_a_picture_knows_what_made_it(store, shared, tmp_path):
    target = tmp_path / "picture.png"
    done = shared("generate", "a red circle on a gray background", "--out", target)
    assert done.stdout.strip() == str(target), done.stderr
    found = json.loads(shared("lineage", target, "--json").stdout)
    assert found[0]["caption"] == "a red circle on a gray background" and found[0]["guidance"] == 2.0
    assert found[1]["key"] == found[0]["stack"] == artifact(store, "assemble").key
    assert {entry["kind"] for entry in found} >= {"clip", "prior_diffusion", "decoder", "source"}
    assert found[0]["unseen_words"] == [] and "trained without" not in done.stderr
    assert "CLIP was trained without: zebra" in shared("generate", "a red zebra", "--out", tmp_path / "z.png").stderr
    other = tmp_path / "other.png"
    shared("generate", "a blue circle on a gray background", "--seed", 1, "--out", other)
    found = json.loads(shared("diff", target, other, "--json").stdout)
    assert {entry["where"] for entry in found} == {"picture.caption", "picture.seed"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([""], "a caption is empty"),
        (["red " * 40], "has 42 tokens, this CLIP reads 32"),
        (["a red circle", "--guidance", -1], "'--guidance'"),
        (["a red circle", "--out", "no/such/folder.png"], "a picture needs a folder that is there"),
        (["a red circle", "--out", "picture.jpg"], "a picture is written as .png"),
    ],
)
def test_a_picture_that_cannot_be_made_is_refused(given, said, shared):
    done = shared("generate", *given)
    assert done.returncode == 2 and said in done.stderr


EDITS = {
    "vary": (["--num", 2], 4, {"num": 2}),
    "interpolate": (["{second}", "--num", 3, "--fixed-noise"], 7, {"fixed_noise": True}),
    "edit": (["--from", "", "--to", "a blue circle", "--num", 3], 5, {"start": "", "to": "a blue circle"}),
    "reconstruct": (["--components", 1, "--components", 2], 4, {"components": [1, 2]}),
    "attack": (["--text", "blue", "--label", "red", "--label", "blue", "--num", 1], 3, {"label": ["red", "blue"]}),
}


@pytest.mark.parametrize("verb", EDITS)
def test_pictures_are_edited_and_know_their_stack(verb, store, shared, tmp_path):
    first, second, target = (tmp_path / f"{name}.png" for name in ("first", "second", "edited"))
    for path, color in ((first, "red"), (second, "blue")):
        Image.new("RGB", (80, 64), color).save(path)
    arguments, num_columns, said = EDITS[verb]
    given = [second if argument == "{second}" else argument for argument in arguments]
    done = shared(verb, first, *given, "--steps", 3, "--out", target)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == str(target), done.stderr
    columns = (Image.open(target).width - TEXT_PX) // (MIN_TILE_PX + GAP_PX)
    assert columns == num_columns
    made = json.loads(shared("lineage", target, "--json").stdout)
    assert made[0] == made[0] | said | {"verb": verb}
    assert made[1]["key"] == artifact(store, "assemble").key
    again = tmp_path / "again.png"
    shared(verb, first, *given, "--steps", 3, "--out", again)
    assert again.read_bytes() == target.read_bytes()


def test_what_is_no_picture_is_named(store, shared, tmp_path):
    (tmp_path / "page.png").write_text("<html>")
    done = shared("vary", tmp_path / "page.png")
    assert done.returncode == 2 and f"{tmp_path / 'page.png'}: not a readable image" in done.stderr


def test_two_artifacts_differ_by_what_made_them(store, shared):
    mid, top = artifact(store, "upsampler_mid"), artifact(store, "upsampler_top")
    found = json.loads(shared("diff", mid.key[:12], top.key[:12], "--json").stdout)
    assert {"where": "recipe.config.network.high_px", "left": 32, "right": 48} in found
    assert shared("diff", mid.key[:12], mid.key[:12]).stdout.strip() == "made alike"


def test_verify_reads_every_byte(store, shared):
    done = shared("verify")
    assert done.returncode == 0 and "every byte as recorded" in done.stdout
    page = artifact(store, "report").path / "index.html"
    whole = page.read_bytes()
    page.write_bytes(whole[:-1] + b"?")
    assert shared("verify").returncode == 1
    page.write_bytes(whole)


def test_gc_lists_what_no_run_refers_to(store, shared):
    assert "0 B" in shared("gc").stdout
    (store.root / "partial" / "left").mkdir(parents=True)
    (store.root / "partial" / "left" / "half").write_text("x" * 100)
    assert "100 B" in shared("gc").stdout and "100 B" in shared("gc", "--remove").stdout
    assert not (store.root / "partial" / "left").exists() and artifact(store, "assemble")


def test_a_head_is_fitted_to_ratings_of_a_dump(shared, ran, store, tmp_path):
    tar = artifact(store, "source").path / "shard.tar"
    assert shared("embed", tar, "--out", tmp_path / "dump", "--clip", "shrunken").returncode == 0
    keys = ShardReader(tar).keys
    lines = [f"{sample_key(0, place)},{place % 7}" for place in range(len(keys))]
    (tmp_path / "ratings.csv").write_text("\n".join(["key,rating", *lines]))
    words = ("--dump", tmp_path / "dump", "--out", tmp_path / "head")
    found = json.loads(shared("fit-aesthetic", tmp_path / "ratings.csv", *words, "--json").stdout)
    assert found["num_rated"] == len(keys) == 180 and found["num_unknown"] == 0
    assert (tmp_path / "head" / "head.safetensors").is_file()


def test_ratings_that_are_no_numbers_are_one_line(shared, tmp_path):
    (tmp_path / "ratings.csv").write_text("key,rating\n1,good\n")
    words = ("--dump", tmp_path / "dump", "--out", tmp_path / "head")
    refused = shared("fit-aesthetic", tmp_path / "ratings.csv", *words)
    assert refused.returncode == 2 and "ratings.csv:2: rating must be a number, got 'good'" in refused.stderr


@pytest.fixture(scope="module")
def grown(shared, ran, tmp_path_factory):
    """Two runs with a CLIP that does not depend on the data: 24 pictures, then 12 more."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("clip") / "weights.safetensors"
    weights = open_clip.create_model(CLIP_MODEL).state_dict()
    save_file({name: value.contiguous() for name, value in weights.items()}, path)
    settings = (f"clip={{pretrained: '{CLIP_MODEL}:{path}', min_zero_shot: 0}}", "source.shapes.shard_size=12")
    common = [word for setting in (*settings, "embed.batch_size=12") for word in ("--set", setting)]
    counts = [("--set", f"source.shapes.num_samples={count}") for count in (24, 36)]
    return [shared("run", "shrunken", "--until", "embed", *common, *count) for count in counts]


def test_every_stage_trains_with_its_weights_shared_out(grown, shared, store):
    trains = [f"{stage}.train" for stage in TRAINED_STAGES]
    settings = [f"{train}.{setting}" for train in trains for setting in ("ranks=2", "shard=true", "num_steps=6")]
    words = [word for setting in settings for word in ("--set", setting)]
    done = shared("run", "shrunken", "--until", "assemble", *words)
    assert done.returncode == 0, done.stderr
    metrics = [a.manifest()["metrics"] for a in store.artifacts() if a.kind in TRAINED_STAGES]
    assert sum(figures.get("num_ranks") == 2 for figures in metrics) == len(trains)


def test_one_more_shard_costs_one_shard(grown):
    before, after = grown
    assert states(NAMES, before.stdout)["embed"] == "made 2 of 2", before.stderr
    said = {"source": "made 1 of 3", "score": "made 1 of 3", "filter": "made", "clip": "made", "embed": "made 1 of 3"}
    assert states(NAMES, after.stdout) == said, after.stderr


def test_a_run_back_to_earlier_settings_puts_them_in_use(grown, shared, store):
    def last():
        return json.loads(max((store.root / "runs").iterdir()).read_text())["stages"]

    assert "report" not in last()
    again = shared("run", "shrunken")
    assert set(states(NAMES, again.stdout).values()) == {"found"} and set(last()) == set(NAMES)
