"""What to say of a name that a store holds nothing of: the pipelines there are."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flows.yaml_source import pipeline_names
from unclip.runs import runs_of
from unclip.store import Store


@contextmanager
def asked_of(store: Store, name: str, file: Path) -> Iterator[None]:
    """Within it the store is asked for what runs of a pipeline made; where there is no such run, what there is.

    Raises: ValueError that names the pipelines of the store and of the file, or says how to make what is missing.
    """
    try:
        yield
    except ValueError as error:
        if next(runs_of(store, name), None) is not None or not file.is_file():
            raise
        names = pipeline_names(file)
        if name in names:
            raise ValueError(f"{error}; `unclip run {name}` makes one (--store names another store)") from None
        raise ValueError(f"{error}; {file.name} has {', '.join(names)}") from None
