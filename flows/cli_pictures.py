"""The verbs that make pictures with the stack in use."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli import STORE, StoreDir, app

Option = typer.Option
Picture = Annotated[Path, typer.Argument(help="A picture: PNG, JPEG, WebP", show_default=False)]
Pipeline = Annotated[str | None, Option(help="Whose newest stack [default: of any]", show_default=False)]
Seed = Annotated[int, Option(help="The same seed gives the same pixels")]
Steps = Annotated[int, Option(help="DDIM steps from picture to latent, and back", min=1)]
Out = Annotated[Path | None, Option(help="The PNG to write [default: after the picture]", show_default=False)]


@app.command(rich_help_panel="Pictures")
def generate(
    caption: Annotated[str, typer.Argument(help="What to show", show_default=False)],
    pipeline: Annotated[str | None, Option(help="Whose newest stack [default: of any]", show_default=False)] = None,
    num: Annotated[int, Option(help="How many pictures")] = 1,
    seed: Annotated[int, Option(help="The same seed gives the same pixels")] = 0,
    prior: Annotated[str | None, Option(help="prior_diffusion, prior_ar or prior_linear", show_default=False)] = None,
    guidance: Annotated[float | None, Option(help="Of the decoder; 1 is off", show_default=False)] = None,
    out: Annotated[Path | None, Option(help="A PNG, or a name for several", show_default=False)] = None,
    store: StoreDir = STORE,
) -> None:
    """Pictures of a caption. Example: unclip generate "a red circle above a blue square" --num 4"""
    from unclip.store import Store

    stack = newest_stack(Store(store), pipeline)
    from tasks.generate import Request, save_picture
    from tasks.generate import generate as sample

    request = Request(caption=caption, num=num, seed=seed, prior=prior, guidance=guidance)
    target = out or Path(re.sub(r"\W+", "-", caption.lower()).strip("-")[:60] + ".png")
    for index, picture in enumerate(sample(stack, request)):
        path = target if num == 1 else target.with_stem(f"{target.stem}-{index}")
        record = {"stack": stack.key, "caption": caption, "seed": seed, "index": index, "num": num}
        save_picture(picture, path, record | {"prior": prior, "guidance": guidance})
        print(path)


@app.command(rich_help_panel="Pictures")
def vary(
    picture: Picture,
    num: Annotated[int, Option(help="How many variations", min=1)] = 4,
    eta: Annotated[float, Option(help="0 decodes the picture again, 1 keeps its embedding alone", min=0, max=1)] = 1.0,
    pipeline: Pipeline = None,
    seed: Seed = 0,
    steps: Steps = 50,
    out: Out = None,
    store: StoreDir = STORE,
) -> None:
    """Variations of a picture, through its latent (§3.1). Example: unclip vary photo.png --num 6"""
    made = open_editor(store, pipeline, seed, steps)
    record = {"verb": "vary", "num": num, "eta": eta}
    made.save(made.editor.vary(read_picture(picture), num, eta), [picture], record, out)


@app.command(rich_help_panel="Pictures")
def interpolate(
    first: Picture,
    second: Picture,
    num: Annotated[int, Option(help="How many pictures, ends included", min=2)] = 5,
    fixed_noise: Annotated[bool, Option("--fixed-noise", help="Move content alone, from one random xT")] = False,
    pipeline: Pipeline = None,
    seed: Seed = 0,
    steps: Steps = 50,
    out: Out = None,
    store: StoreDir = STORE,
) -> None:
    """Pictures between two (§3.2). Example: unclip interpolate a.png b.png --num 7"""
    made = open_editor(store, pipeline, seed, steps)
    record = {"verb": "interpolate", "num": num, "fixed_noise": fixed_noise}
    pictures = read_picture(first), read_picture(second)
    made.save(made.editor.interpolate(*pictures, num, fixed_noise=fixed_noise), [first, second], record, out)


@app.command(rich_help_panel="Pictures")
def edit(
    picture: Picture,
    to: Annotated[str, Option(help="A caption of what it should become", show_default=False)],
    start: Annotated[str, Option("--from", help="A caption of what it is")] = "a photo",
    num: Annotated[int, Option(help="How many pictures", min=2)] = 5,
    most: Annotated[float, Option(help="How far to go; 0.25 to 0.5 in the paper", min=0.01, max=1)] = 0.5,
    pipeline: Pipeline = None,
    seed: Seed = 0,
    steps: Steps = 50,
    out: Out = None,
    store: StoreDir = STORE,
) -> None:
    """Move a picture by words (§3.3). Example: unclip edit a.png --from "a red circle" --to "a blue circle" """
    made = open_editor(store, pipeline, seed, steps)
    fractions = [most * number / (num - 1) for number in range(num)]
    record = {"verb": "edit", "num": num, "from": start, "to": to, "most": most}
    made.save(made.editor.edit(read_picture(picture), (start, to), fractions), [picture], record, out)


@app.command(rich_help_panel="Pictures")
def reconstruct(
    picture: Picture,
    components: Annotated[list[int], Option("--components", help="How many to keep, may be given again")] = [],  # noqa: B006
    pipeline: Pipeline = None,
    seed: Seed = 0,
    steps: Steps = 50,
    out: Out = None,
    store: StoreDir = STORE,
) -> None:
    """A picture from ever more components of its embedding (§4). Example: unclip reconstruct a.png"""
    made = open_editor(store, pipeline, seed, steps)
    counts = components or made.editor.component_counts()
    record = {"verb": "reconstruct", "components": counts}
    made.save(made.editor.reconstruct(read_picture(picture), counts), [picture], record, out)


@app.command(rich_help_panel="Pictures")
def attack(
    picture: Picture,
    text: Annotated[str, Option(help="What to write on it", show_default=False)],
    labels: Annotated[list[str], Option("--label", help="A caption to weigh, given twice or more")],
    num: Annotated[int, Option(help="How many variations", min=1)] = 3,
    pipeline: Pipeline = None,
    seed: Seed = 0,
    steps: Steps = 50,
    out: Out = None,
    store: StoreDir = STORE,
) -> None:
    """What text on a picture does to CLIP, and to the decoder (§4).
    Example: unclip attack a.png --text blue --label "a red circle" --label "a blue circle" """
    from flows.terminal import out as terminal
    from flows.terminal import table
    from tasks.edit import with_text

    if len(labels) < 2:
        raise ValueError(f"--label must be given twice or more, got {len(labels)}")
    made = open_editor(store, pipeline, seed, steps)
    before = read_picture(picture)
    after = with_text(before, text)
    shares = zip(labels, made.editor.label(before, labels), made.editor.label(after, labels), strict=True)
    rows = [[label, f"{clean:.3f}", f"{written:.3f}"] for label, clean, written in shares]
    terminal.print(table("zero-shot probabilities", ["label", "picture", "with text"], rows, ["picture", "with text"]))
    record = {"verb": "attack", "num": num, "text": text, "labels": labels}
    made.save(made.editor.vary(after, num, 1.0), [picture], record, out)


@dataclass(frozen=True)
class Opened:
    """The editor of a stack, and what its pictures will say of their making."""

    editor: Any
    record: dict[str, Any]

    def save(self, columns: Any, sources: list[Path], record: dict[str, Any], out: Path | None) -> None:
        """Writes the columns as one labelled PNG and prints its path."""
        from tasks.generate import save_picture
        from unclip.report.grid import sample_grid

        names = " and ".join(source.name for source in sources)
        path = out or Path(f"{'-'.join(source.stem for source in sources)}-{record['verb']}.png")
        pictures = {"pictures": [str(source) for source in sources]}
        save_picture(sample_grid(columns, [names]), path, self.record | pictures | record)
        print(path)


def open_editor(store: Path, pipeline: str | None, seed: int, steps: int) -> Opened:
    """The editor of the newest stack."""
    from unclip.store import Store

    stack = newest_stack(Store(store), pipeline)
    from tasks.edit import editor

    record = {"stack": stack.key, "seed": seed, "steps": steps}
    return Opened(editor(stack, seed, steps), record)


def read_picture(path: Path) -> Any:
    """The pixels (H, W, 3) of a picture.

    Raises: ValueError with the path when it is none.
    """
    import numpy as np

    from unclip.data.images import open_rgb

    if not path.is_file():
        raise ValueError(f"{path} is no file")
    try:
        return np.array(open_rgb(path.read_bytes()))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def newest_stack(store: Any, pipeline: str | None) -> Any:
    """The stack that the newest run assembled.

    Raises:
        ValueError: no run did.
    """
    from unclip.runs import last_artifacts, runs_of

    names = [pipeline] if pipeline else list(dict.fromkeys(run.pipeline for run in runs_of(store)))
    for name in names:
        try:
            return last_artifacts(store, name, "assemble")[0]
        except ValueError:
            if pipeline:
                raise
    raise ValueError(f"{store.root} holds no stack yet: make one with `unclip run shapes` (--store names another)")
