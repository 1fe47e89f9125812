"""The pipeline `data`, which trains nothing, at the command line: a folder and a CLIP of open_clip's from a folder."""

import json
import re
from pathlib import Path

import pytest

from flows.config import load_pipeline
from flows.graph import STAGES, open_graph
from tests.flows.conftest import ROOT
from tests.tasks.test_pretrained import folder_of
from tests.unclip.data.data_fixtures import picture, png_bytes

FILE = ROOT / "pipelines.yaml"
NAMES = ["source", "score", "filter", "clip", "embed", "select", "index", "pca", "report"]
NUM_PICTURES = 40


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    """The pipeline's name and what says which pictures and CLIP are meant."""
    folder = tmp_path_factory.mktemp("photos")
    rows = [f"{n}.png,the picture of number {n}" for n in range(NUM_PICTURES)]
    for number in range(NUM_PICTURES):
        (folder / f"{number}.png").write_bytes(png_bytes(picture(max(number, 1))))  # the first two are one
    (folder / "captions.csv").write_text("\n".join(["file,caption", *rows]) + "\n")
    source = f"source={{folder: {{folder: {folder}, captions: {folder / 'captions.csv'}}}}}"
    clip = f"clip.pretrained=local-dir:{folder_of(folder / 'clip', {})}"
    settings = (source, "download=null", clip, "select.min_clip_score=null", "select.max_duplicate_cosine=0.9999999")
    return "data", "--file", FILE, *(word for setting in settings for word in ("--set", setting))


@pytest.fixture(scope="module")
def ran(shared, arguments):
    done = shared("run", *arguments)
    assert done.returncode == 0, done.stderr
    return done


def test_a_run_ends_with_its_report_and_trains_nothing(ran, shared):
    assert re.findall(r"^(\w+) +made", ran.stdout, re.MULTILINE) == NAMES
    page = shared("report", "data").stdout.strip()
    assert ran.stdout.splitlines()[-1] == f"report: {page}"
    text = Path(page).read_text()
    assert "Captioned pictures · " in text and "unCLIP stack" not in text and 'id="data"' in text


def test_a_second_run_finds_everything(ran, shared, arguments):
    again = shared("run", *arguments)
    assert re.findall(r"^(\w+) +found", again.stdout, re.MULTILINE) == NAMES
    plans = json.loads(shared("plan", *arguments, "--json").stdout)
    assert [plan["stage"] for plan in plans] == NAMES and not any(plan["num_missing"] for plan in plans)


def test_the_rows_are_counted_and_searched(ran, shared):
    steps = json.loads(shared("funnel", "data", "--json").stdout)
    assert steps[0]["rows_in"] == NUM_PICTURES and {s["reason"] for s in steps if s["dropped"]} == {"duplicate"}
    assert "duplicate" in shared("dropped", "data").stdout
    hits = json.loads(shared("search", "data", "the picture of number 7", "-k", 3, "--json").stdout)
    assert len(hits) == 3


def test_what_it_does_not_make_is_told(ran, shared):
    asked = shared("metrics", "data")
    assert asked.returncode == 2 and "pipeline 'data' has no stage evaluate" in asked.stderr


def test_a_printed_pipeline_loads_again(shared, arguments, tmp_path):
    printed = shared("config", *arguments).stdout
    (tmp_path / "printed.yaml").write_text(printed)
    assert load_pipeline(tmp_path / "printed.yaml", "data").clip.pretrained.startswith("local-dir:")


def test_a_pipeline_without_a_stack_has_every_other_stage(tmp_path):
    settings = (f"source.urls.path={tmp_path / 'list.csv'}", f"aesthetic.head={tmp_path}")
    (tmp_path / "list.csv").write_text("url,caption\nhttps://example.org/a.jpg,a picture\n")
    for name in ("head.json", "head.safetensors"):
        (tmp_path / name).write_bytes(b"{}")
    graph = open_graph(FILE, "data", tmp_path, settings)
    names = [stage.name for stage in graph.stages()]
    assert names == [s.name for s in STAGES if s.name in (*NAMES, "download", "aesthetic")]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ("decoder={train: {num_steps: 1, batch_size: 1, learning_rate: 1}}",),
            "data.prior_ar is required with d",
        ),
        (("assemble={prior_steps: 2}",), "assemble has no effect without prior_diffusion, prior_ar, decoder"),
    ],
)
def test_half_a_stack_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        load_pipeline(FILE, "data", ("source.urls.path=list.csv", *settings))
