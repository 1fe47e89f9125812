"""Facts about the bars of a verb that embeds."""

import io

import pytest
from rich.console import Console

from flows import cli_data


def test_an_error_under_a_bar_gives_the_cursor_back(monkeypatch):
    monkeypatch.setattr(cli_data, "err", Console(file=io.StringIO(), force_terminal=True))
    with pytest.raises(ValueError, match="no memory"), cli_data._bars() as bar:
        bar("fetch")(1, 1)
        bar("embed")(1, 2)
        raise ValueError("no memory")
    shown = cli_data.err.file.getvalue()
    assert "fetch" in shown and "embed" in shown and shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")
