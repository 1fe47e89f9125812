"""What the stack can do: headline figures, samples, the table of conditionings, the table of priors."""

from typing import Any

from unclip.report.figures import CONDITIONING_FIGURES, CONDITIONINGS, PRIOR_FIGURES, Figure
from unclip.report.html import Cell, element, escape, picture, section, table, tile
from unclip.report.record import PipelineRecord

HEADLINES = ("color_accuracy", "single_accuracy", "pair_accuracy", "clip_score", "frechet_clip")
OWN = "prior_diffusion"  # the conditioning that the headline figures speak of


def headlines(evaluation: dict[str, Any]) -> str:
    """The diffusion prior's figures as tiles, each with its upper bound, chance and target."""
    found = evaluation["conditionings"]
    shown = [f for f in CONDITIONING_FIGURES if f.key in HEADLINES and f.key in found.get(OWN, {})]
    tiles = []
    for figure in shown:
        beside = {"true embedding": "true_embedding", "text fed directly": "text_embedding", "chance": "chance"}
        notes = [
            f"{name} {figure.text(found[key][figure.key])}"
            for name, key in beside.items()
            if figure.key in found.get(key, {})
        ]
        if figure.key in evaluation["targets"]:
            notes.append(f"target {figure.text(evaluation['targets'][figure.key])}")
        tiles.append(tile(figure.heading, figure.text(found[OWN][figure.key]), " · ".join(notes)))
    return element("div", "".join(tiles), "tiles") if tiles else ""


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
    """Every figure of every conditioning, with the targets; the best made picture's figure stands out."""
    found, targets = evaluation["conditionings"], evaluation["targets"]
    body = figure_table(found, CONDITIONING_FIGURES, targets, rivals=set(found) - {"real", "chance"})
    lead = (
        f"{evaluation['num_captions']} held-out captions; Fréchet, precision and recall against "
        f"{evaluation['num_reference']} other real held-out pictures. The best of what was made stands out; "
        "Fréchet is better lower, all others higher."
    )
    return section("figures", "What the embedding is worth", lead, body)


def priors(evaluation: dict[str, Any]) -> str:
    """Quality of the embeddings that the priors and the text-embedding baseline give."""
    found = evaluation["priors"]
    body = figure_table(found, PRIOR_FIGURES, {}, rivals=set(found) - {"true_embedding"}) if found else ""
    lead = (
        "Cosine to the true embedding rises when a prior gives the mean to everything; so the distance of the whole "
        "set, the rank of the truth and the diversity stand beside it. A diversity near the true one is best."
    )
    return section("priors", "Priors", lead, body)


def figure_table(
    found: dict[str, dict[str, float]], figures: tuple[Figure, ...], targets: dict[str, float], rivals: set[str]
) -> str:
    """Rows of conditionings, columns of the figures that any of them has, and a last row of targets if any."""
    columns = [f for f in figures if any(f.key in row for row in found.values())]
    best = {f.key: best_of(f, {name: row for name, row in found.items() if name in rivals}) for f in columns}
    head = [Cell(text="")] + [Cell(text=f.heading, look="num", hint=f.meaning) for f in columns]
    rows = []
    for name, row in found.items():
        look = "num" if name in rivals else "num faint"
        cells = [
            Cell(text=f.text(row.get(f.key)), look=look + (" best" if name in best[f.key] else "")) for f in columns
        ]
        rows.append([Cell(text=label(name), hint=CONDITIONINGS.get(name, "")), *cells])
    if targets:
        rows.append([Cell(text="target"), *(Cell(text=f.text(targets.get(f.key)), look="num faint") for f in columns)])
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
    return {
        "prior_ar": "autoregressive prior",
        "prior_diffusion": "diffusion prior",
        "prior_linear": "linear prior",
    }.get(name, name.replace("_", " "))
