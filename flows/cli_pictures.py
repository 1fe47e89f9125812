"""The verbs that make pictures with the stack in use."""

import re
from collections.abc import Callable
from functools import wraps
from inspect import Signature, signature
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli import STORE, StoreDir, app
from flows.terminal import err

Option = typer.Option
Picture = Annotated[Path, typer.Argument(help="A picture: PNG, JPEG, WebP", show_default=False)]
Pipeline = Annotated[str | None, Option(help="Whose newest stack; if left out, of any", show_default=False)]
Seed = Annotated[int, Option(help="The same seed and settings give the same pixels")]
PRIOR_HELP = "prior_diffusion, prior_ar, prior_linear; or text_embedding, for none"
Steps = Annotated[int, Option(help="DDIM steps from picture to latent, and back", min=1)]
Out = Annotated[Path | None, Option(help="The PNG to write; if left out, named after the picture", show_default=False)]


@app.command(rich_help_panel="Pictures")
def generate(
    caption: Annotated[str, typer.Argument(help="What to show", show_default=False)],
    pipeline: Pipeline = None,
    num: Annotated[int, Option(help="How many pictures", min=1)] = 1,
    seed: Seed = 0,
    prior: Annotated[str | None, Option(help=PRIOR_HELP, show_default=False)] = None,
    guidance: Annotated[float | None, Option(help="Of the decoder; 1 is off", min=0, show_default=False)] = None,
    out: Annotated[Path | None, Option(help="A PNG, or a name for several", show_default=False)] = None,
    store: StoreDir = STORE,
) -> None:
    """Pictures of a caption. Example: unclip generate "a red circle above a blue square" --num 4"""
    from unclip.store import open_store

    target = writable(out or Path((re.sub(r"\W+", "-", caption.lower()).strip("-")[:60] or "picture") + ".png"))
    stack = newest_stack(open_store(store), pipeline)
    from tasks.generate import Request, save_picture
    from tasks.generate import generate as sample

    pictures, how = sample(stack, Request(caption=caption, num=num, seed=seed, prior=prior, guidance=guidance))
    if unseen := how["unseen_words"]:
        err.print(f"CLIP was trained without: {', '.join(unseen)}", markup=False)
    for index, picture in enumerate(pictures):
        path = target if num == 1 else target.with_stem(f"{target.stem}-{index}")
        save_picture(picture, path, how | {"index": index})
        print(path)


Making = Callable[..., Any]


def latent_verb(make: Making) -> Making:
    """A verb out of `make(editor, its own arguments)`, which returns columns of pictures.

    The verb takes what all of them take besides (`saved`), and writes one labelled PNG that says what made it.
    """
    own, shared = ([*signature(function).parameters.values()] for function in (make, saved))

    @wraps(make)
    def verb(**given: Any) -> None:
        arguments = {parameter.name: given[parameter.name] for parameter in own[1:]}
        saved(make, arguments, **{parameter.name: given[parameter.name] for parameter in shared[2:]})

    parameters = [p.replace(kind=p.KEYWORD_ONLY) for p in (*own[1:], *shared[2:])]
    verb.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    verb.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return app.command(rich_help_panel="Pictures")(verb)


def saved(
    make: Making,
    arguments: dict[str, Any],
    pipeline: Pipeline = None,
    seed: Seed = 0,
    steps: Steps = 50,
    out: Out = None,
    store: StoreDir = STORE,
) -> None:
    """Makes pictures with the newest stack, writes them beside each other and prints where."""
    from unclip.store import open_store

    sources = [value for value in arguments.values() if isinstance(value, Path)]
    path = writable(out or Path(f"{'-'.join(source.stem for source in sources)}-{make.__name__}.png"))
    stack = newest_stack(open_store(store), pipeline)
    from tasks.edit import editor
    from tasks.generate import save_picture
    from unclip.report.grid import sample_grid

    columns = make(editor(stack, seed, steps), **arguments)
    told = {name: str(value) if isinstance(value, Path) else value for name, value in arguments.items()}
    record = {"stack": stack.key, "verb": make.__name__, "seed": seed, "steps": steps} | told
    save_picture(sample_grid(columns, [" and ".join(source.name for source in sources)]), path, record)
    print(path)


@latent_verb
def vary(
    editor: Any,
    picture: Picture,
    num: Annotated[int, Option(help="How many variations", min=1)] = 4,
    eta: Annotated[float, Option(help="0 decodes the picture again, 1 keeps its embedding alone", min=0, max=1)] = 1.0,
) -> Any:
    """Variations of a picture, through its latent (§3.1). Example: unclip vary photo.png --num 6"""
    return editor.vary(read_picture(picture), num, eta)


@latent_verb
def interpolate(
    editor: Any,
    first: Picture,
    second: Picture,
    num: Annotated[int, Option(help="How many pictures, ends included", min=2)] = 5,
    fixed_noise: Annotated[bool, Option("--fixed-noise", help="Move content alone, from one random xT")] = False,
) -> Any:
    """Pictures between two (§3.2). Example: unclip interpolate a.png b.png --num 7"""
    return editor.interpolate(read_picture(first), read_picture(second), num, fixed_noise=fixed_noise)


@latent_verb
def edit(
    editor: Any,
    picture: Picture,
    to: Annotated[str, Option(help="A caption of what it should become", show_default=False)],
    start: Annotated[str, Option("--from", help='A caption of what it is; "" leaves it out')] = "a photo",
    num: Annotated[int, Option(help="How many pictures", min=2)] = 5,
    most: Annotated[float, Option(help="How far to go; 0.25 to 0.5 in the paper", min=0.01, max=1)] = 0.5,
) -> Any:
    """Move a picture by words (§3.3). Example: unclip edit a.png --from "a red circle" --to "a blue circle" """
    fractions = [most * number / (num - 1) for number in range(num)]
    return editor.edit(read_picture(picture), start or None, to, fractions)


@latent_verb
def reconstruct(
    editor: Any,
    picture: Picture,
    components: Annotated[list[int], Option("--components", help="How many to keep, may be given again")] = [],  # noqa: B006
) -> Any:
    """A picture from ever more components of its embedding (§4). Example: unclip reconstruct a.png"""
    return editor.reconstruct(read_picture(picture), components or editor.component_counts())


@latent_verb
def attack(
    editor: Any,
    picture: Picture,
    text: Annotated[str, Option(help="What to write on it", show_default=False)],
    label: Annotated[list[str], Option(help="A caption to weigh, given twice or more", show_default=False)],
    num: Annotated[int, Option(help="How many variations", min=1)] = 3,
) -> Any:
    """What text on a picture does to CLIP, and to the decoder (§4).
    Example: unclip attack a.png --text blue --label "a red circle" --label "a blue circle" """
    from flows.terminal import out, table
    from tasks.edit import with_text

    if len(label) < 2:
        raise ValueError(f"--label must be given twice or more, got {len(label)}")
    before = read_picture(picture)
    after = with_text(before, text)
    shares = zip(label, editor.label(before, label), editor.label(after, label), strict=True)
    rows = [[name, f"{clean:.3f}", f"{written:.3f}"] for name, clean, written in shares]
    out.print(table("zero-shot probabilities", ["label", "picture", "with text"], rows, ["picture", "with text"]))
    return editor.vary(after, num, 1.0)


def writable(path: Path) -> Path:
    """The path of a picture to write. Raises: ValueError when none can be written there."""
    if path.suffix != ".png":
        raise ValueError(f"a picture is written as .png, which can say what made it; got {path}")
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise ValueError(f"a picture needs a folder that is there, and a name that is no folder's; got {path}")
    return path


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
