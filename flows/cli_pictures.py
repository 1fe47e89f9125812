"""The verbs that make pictures with the stack in use."""

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli import STORE, StoreDir, app

Option = typer.Option


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
