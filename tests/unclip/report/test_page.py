import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from unclip.artifact import Artifact
from unclip.data.funnel import Step, write_funnel
from unclip.recipe import Recipe
from unclip.report.grid import sample_grid
from unclip.report.page import build_page
from unclip.report.record import PipelineRecord
from unclip.store import Build, Store

FIGURES = {"single_accuracy": 0.5, "clip_score": 0.31, "frechet_clip": 0.2}
EVALUATION = {
    "prior": "prior_diffusion",
    "embedding": "image",
    "num_captions": 1,
    "num_reference": 9,
    "targets": {"single_accuracy": 0.7},
    "conditionings": {
        "real": FIGURES,
        "prior_diffusion": FIGURES,
        "prior_linear": FIGURES | {"single_accuracy": 0.625, "frechet_clip": 0.1},
        "chance": {"single_accuracy": 0.03125},
    },
    "priors": {"prior_linear": {"cosine": 0.75, "median_rank": 2.0}},
}


def publish(root: Path, kind: str, files: dict[str, str], metrics: dict[str, Any] | None = None) -> Artifact:
    def fill(out: Path) -> dict[str, Any]:
        for name, text in files.items():
            (out / name).write_text(text)
        if kind == "evaluate":
            Image.new("RGB", (8, 8), (255, 0, 0)).save(out / "real.png")
        if kind == "source":
            pq.write_table(pa.table({"status": ["ok", "ok", "HTTP 404"]}), out / "rows.parquet")
        return metrics or {}

    recipe = Recipe(stage=kind, config={}, inputs={}, code=json.dumps(files), seed=0)
    return Store(root).build(Build(kind=kind, recipe=recipe, fill=fill))[0]


def evaluation(root: Path, record: dict[str, Any]) -> Artifact:
    samples = [{"key": "0", "caption": "a <red> square & more", "images": {"real": "real.png"}}]
    return publish(root, "evaluate", {"metrics.json": json.dumps(record), "samples.json": json.dumps(samples)})


def page_of(root: Path, record: dict[str, Any]) -> str:
    return build_page("emoji", PipelineRecord({"evaluate": (evaluation(root, record),)}))


def test_the_page_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    page = page_of(tmp_path, EVALUATION)
    assert "data:image/png;base64," in page
    assert not any(word in page for word in ("http:", "https:", "<script", "<link", "url("))


def test_captions_are_escaped(tmp_path: Path) -> None:
    page = page_of(tmp_path, EVALUATION)
    assert "a &lt;red&gt; square &amp; more" in page
    assert "<red>" not in page


def test_the_best_of_what_was_made_stands_out(tmp_path: Path) -> None:
    page = page_of(tmp_path, EVALUATION)
    assert '<td class="num best">62 %</td>' in page
    assert '<td class="num best">0.100</td>' in page  # of two distances the lower one
    assert '<td class="num faint">50 %</td>' in page  # the real picture competes with nothing


def test_a_missed_target_says_so(tmp_path: Path) -> None:
    assert "✗ target 70 %" in page_of(tmp_path, EVALUATION)
    easier = EVALUATION | {"targets": {"single_accuracy": 0.4}}
    assert "✓ target 40 %" in page_of(tmp_path / "easier", easier)


def test_headlines_and_targets_are_those_of_the_stacks_own_prior(tmp_path: Path) -> None:
    page = page_of(tmp_path, EVALUATION | {"prior": "prior_linear", "targets": {"single_accuracy": 0.6}})
    assert "The true embedding is the upper bound" in page
    assert "Linear prior: " in page and "✓ target 60 %" in page and "✗" not in page


def test_a_decoder_of_text_embeddings_has_no_such_bound_and_no_note_on_itself(tmp_path: Path) -> None:
    fed = EVALUATION["conditionings"] | {"text_embedding": FIGURES}
    record = EVALUATION | {"prior": "text_embedding", "embedding": "text", "conditionings": fed}
    page = page_of(tmp_path, record)
    assert "was trained on text embeddings" in page and "is the upper bound" not in page
    assert "<small>text embedding" not in page
    assert "<small>text embedding" in page_of(tmp_path / "image", record | {"prior": "prior_linear"})


def test_a_pipeline_without_attributes_has_no_such_columns(tmp_path: Path) -> None:
    plain = {name: {"clip_score": 0.25} for name in ("real", "prior_diffusion")}
    page = page_of(tmp_path, EVALUATION | {"targets": {}, "conditionings": plain})
    assert "CLIP score" in page
    assert "colour" not in page


STEPS = [
    Step(stage="download", reason="http_404", rows_in=9, dropped=3),
    Step(stage="filter", reason="small", rows_in=6, dropped=0),
    Step(stage="filter", reason="duplicate", rows_in=6, dropped=2),
]


def test_the_funnel_is_one_table_from_the_source_to_the_rows_kept(tmp_path: Path) -> None:
    write_funnel(tmp_path / "funnel.json", STEPS)
    text = (tmp_path / "funnel.json").read_text()
    page = build_page("emoji", PipelineRecord({"filter": (publish(tmp_path, "filter", {"funnel.json": text}),)}))
    cells = [f'<td class="num">{value}</td>' for value in ("9", "3", "33.3 %", "6")]
    assert f"<td>download</td><td>http_404</td>{''.join(cells)}" in page
    assert "9 rows of the source, 5 dropped, 4 kept (44.4 %)." in page
    assert "Dropped nothing: small." in page


def test_sheets_of_dropped_samples_are_in_the_page_in_the_order_of_the_funnel(tmp_path: Path) -> None:
    write_funnel(tmp_path / "funnel.json", STEPS)
    text = (tmp_path / "funnel.json").read_text()
    sheets = [tmp_path / "filter-duplicate.png", tmp_path / "download-http_404.png"]
    for path in sheets:
        Image.new("RGB", (4, 4)).save(path)
    record = PipelineRecord({"filter": (publish(tmp_path, "filter", {"funnel.json": text}),)})
    page = build_page("emoji", record, sheets)
    assert page.index("download: http 404") < page.index("filter: duplicate")
    assert page.count("data:image/png;base64,") == 2


def test_zero_shot_accuracies_come_from_clip(tmp_path: Path) -> None:
    clip = publish(tmp_path, "clip", {"clip.json": "{}"}, {"zero_shot_color": 0.987})
    assert "98.7 %" in build_page("emoji", PipelineRecord({"clip": (clip,)}))


def test_priors_say_what_they_took_to_train(tmp_path: Path) -> None:
    prior = publish(tmp_path, "prior_diffusion", {"config.json": "{}"}, {"train_flops": 3.73e12})
    found = evaluation(
        tmp_path, EVALUATION | {"priors": {name: {"cosine": 0.8} for name in ("prior_diffusion", "prior_linear")}}
    )
    page = build_page("emoji", PipelineRecord({"prior_diffusion": (prior,), "evaluate": (found,)}))
    assert "Trained with, in TFLOPs: diffusion prior 3.73." in page


def test_a_grid_holds_each_picture_where_it_belongs() -> None:
    red, blue = (np.full((2, 8, 8, 3), color, np.uint8) for color in ((255, 0, 0), (0, 0, 255)))
    sheet = np.asarray(sample_grid({"real": red, "made": blue}, ["one", "two"]))
    share = [(sheet == color).all(axis=-1).sum() for color in ((255, 0, 0), (0, 0, 255))]
    assert share == [2 * 96 * 96, 2 * 96 * 96]
    assert (sheet[60, -60] == (0, 0, 255)).all()
