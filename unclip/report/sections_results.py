"""What the stack can do: headline figures, samples, the table of conditionings, the table of priors."""

from typing import Any

from unclip.report.figures import BOUNDS, CONDITIONING_FIGURES, CONDITIONINGS, PRIOR_FIGURES, Figure
from unclip.report.html import Cell, element, escape, picture, section, table, tile
from unclip.report.record import PipelineRecord

BOUND_OF = {
    "image": "The true embedding is the upper bound",
    "text": "The decoder was trained on text embeddings: the true one is as strange to it as the priors'",
}
HEADLINES = ("color_accuracy", "single_accuracy", "pair_accuracy", "clip_score", "frechet_clip")


def headlines(evaluation: dict[str, Any]) -> str:
    """The figures of the stack's own prior as tiles, each with its upper bound, baseline, chance and target."""
    found, targets = evaluation["conditionings"], evaluation["targets"]
    own, tiles = found[evaluation["prior"]], []
    for figure in (f for f in CONDITIONING_FIGURES if f.key in HEADLINES and f.key in own):
        reached = own[figure.key]
        notes = [
            f"{label(name)} {figure.text(found[name][figure.key])}"
            for name in ("true_embedding", "text_embedding", "chance")
            if name != evaluation["prior"] and figure.key in found.get(name, {})
        ]
        if figure.key in targets:
            notes.insert(0, target_text(figure, reached, targets[figure.key]))
        heading = figure.heading + ("" if figure.higher_is_better else " (lower is better)")
        tiles.append(tile(heading, figure.text(reached), notes))
    return element("div", "".join(tiles), "tiles") if tiles else ""


def target_text(figure: Figure, reached: float, target: float) -> str:
    """A target and whether it is reached."""
    return f"{'✓' if reached >= target else '✗'} target {figure.text(target)}"


def samples(record: PipelineRecord) -> str:
    """Each caption with its real picture and what every conditioning made of it, from the same noise."""
    rows = record.read_json("evaluate", "samples.json") or []
    folder = record.artifacts["evaluate"][0].path if rows else None
    body = ""
    for row in rows:
        assert folder is not None
        figures = "".join(
            element(
                "figure",
                picture(folder / name, f"{label(key)}: {row['caption']}") + element("figcaption", escape(label(key))),
                "truth" if key == "real" else "",
            )
            for key, name in row["images"].items()
        )
        strip = f'<div class="strip" style="--columns:{len(row["images"])}">{figures}</div>'
        body += element("div", element("p", escape(row["caption"])) + strip, "sample")
    lead = "Held-out captions, never trained on. The real picture first; every other one is made from the same noise."
    return section("samples", "Samples", lead, body)


def conditionings(evaluation: dict[str, Any]) -> str:
    """Every figure of every conditioning; the best of what was made without the real picture stands out."""
    found, targets = evaluation["conditionings"], evaluation["targets"]
    body = figure_table(found, CONDITIONING_FIGURES)
    if targets:
        marks = [f for f in CONDITIONING_FIGURES if f.key in targets]
        own = evaluation["prior"]
        texts = [f"{f.heading} {target_text(f, found[own].get(f.key, 0.0), targets[f.key])}" for f in marks]
        body += element("p", escape(f"{label(own).capitalize()}: {' · '.join(texts)}"), "lead after")
    lead = (
        f"{evaluation['num_captions']} held-out captions; Fréchet, precision and recall against "
        f"{evaluation['num_reference']} other real held-out pictures. {BOUND_OF[evaluation['embedding']]}; the best of "
        "the rest stands out. Fréchet is better lower, all others higher."
    )
    return section("figures", "What the embedding is worth", lead, body)


def priors(evaluation: dict[str, Any], record: PipelineRecord) -> str:
    """Quality of the embeddings that the priors and the text-embedding baseline give, and what each took to train."""
    found = evaluation["priors"]
    flops = {name: record.metrics(name).get("train_flops") for name in found}
    spent = [f"{label(name)} {value / 1e12:,.3g}" for name, value in flops.items() if value]
    lead = (
        "Cosine to the true embedding rises when a prior gives the mean to everything; so the distance of the whole "
        "set, the rank of the truth and the diversity stand beside it. A diversity near the true one is best."
    )
    if spent:
        lead += f" Trained with, in TFLOPs: {', '.join(spent)}."
    return section("priors", "Priors", lead, figure_table(found, PRIOR_FIGURES) if found else "")


def figure_table(found: dict[str, dict[str, float]], figures: tuple[Figure, ...]) -> str:
    """Rows of conditionings, columns of the figures that any of them has."""
    columns = [f for f in figures if any(f.key in row for row in found.values())]
    best = {f.key: best_of(f, {name: row for name, row in found.items() if name not in BOUNDS}) for f in columns}
    head = [Cell(text="")] + [Cell(text=f.heading, look="num", hint=f.meaning) for f in columns]
    rows = []
    for name, row in found.items():
        look = "num faint" if name in BOUNDS else "num"
        cells = [
            Cell(text=f.text(row.get(f.key)), look=look + (" best" if name in best[f.key] else "")) for f in columns
        ]
        rows.append([Cell(text=label(name), hint=CONDITIONINGS[name][1]), *cells])
    return table(head, rows)


def best_of(figure: Figure, rows: dict[str, dict[str, float]]) -> set[str]:
    """The names that share the best value; nobody for diversity, which has no better way."""
    values = {name: row[figure.key] for name, row in rows.items() if figure.key in row}
    if not values or figure.key.startswith("diversity"):
        return set()
    best = (max if figure.higher_is_better else min)(values.values())
    return {name for name, value in values.items() if value == best}


def label(name: str) -> str:
    """A conditioning as a person reads it."""
    return CONDITIONINGS[name][0]
