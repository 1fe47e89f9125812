"""One training process: `python -m tasks.worker CONTEXT.json`, started by `tasks.train.run` through `unclip.launch`.

It sends its progress, and its error if any, as events; its output is the log.
"""

import os
import sys
import traceback
from pathlib import Path

from tasks.context import Context
from tasks.train import join_us, work
from unclip.launch import emit


def progress(done: float, total: float, **figures: float) -> None:
    """Sends how far the training is."""
    emit({"event": "progress", "done": done, "total": total, "figures": figures})


def main(path: Path) -> int:
    """Trains the stage of the context in `path`; the exit code."""
    try:
        context = Context.from_json(path.read_text(), progress)
        join_us(context, path)
        work(context)
    except Exception as error:  # whatever it is, the other process is told in one line and the log has it all
        emit({"event": "error", "kind": type(error).__name__, "message": first_line(error)})
        traceback.print_exc()
        return 1
    return 0


def first_line(error: Exception) -> str:
    """The first line of an error's text, after its type unless it was written for the user."""
    lines = str(error).splitlines() or [""]
    is_ours = isinstance(error, ValueError | FloatingPointError) or type(error).__module__.startswith("unclip.")
    return lines[0] if is_ours else f"{type(error).__name__}: {lines[0]}"


if __name__ == "__main__":
    code = main(Path(sys.argv[1]))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # all files are closed; taking torch down costs a second
