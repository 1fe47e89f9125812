"""The tables that a run ends with."""

from typing import Any

from flows.terminal import out, table

SHORT = {
    "single_accuracy": "single",
    "color_accuracy": "color",
    "shape_accuracy": "shape",
    "pair_accuracy": "pair",
    "relation_accuracy": "relation",
    "clip_score": "CLIP score",
    "frechet_clip": "Fréchet",
    "precision": "prec.",
    "recall": "recall",
}


def print_metrics(name: str, values: dict[str, Any]) -> None:
    """The last evaluation as two tables: pictures by conditioning, embeddings by prior."""
    pictures = values["conditionings"]
    columns = [c for c in SHORT if any(c in row for row in pictures.values())]
    rows = [[kind, *(_number(row.get(c)) for c in columns)] for kind, row in pictures.items()]
    titles = [SHORT[c] for c in columns]
    title = f"{name}: pictures of {values['num_captions']} held-out captions"
    out.print(table(title, ["conditioning", *titles], rows, titles))
    if rated := [f"{kind} {_number(row['aesthetic'])}" for kind, row in pictures.items() if "aesthetic" in row]:
        out.print(f"mean rating by the aesthetic head: {', '.join(rated)}")
    priors = values.get("priors", {})
    names = list(dict.fromkeys(n for row in priors.values() for n in row))
    rows = [[kind, *(_number(row.get(n)) for n in names)] for kind, row in priors.items()]
    titles = [n.replace("_", " ") for n in names]
    out.print(table(f"\n{name}: embeddings", ["prior", *titles], rows, titles))


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    shown = round(value, 3) + 0.0  # no -0.000
    return f"{shown:.3f}" if abs(shown) < 10 else f"{shown:.1f}"
