"""The tables of `unclip metrics`."""

import io

from rich.console import Console

from flows import cli_dumps, figures, terminal
from flows.figures import print_metrics

WIDTH = 80
FIGURES = dict.fromkeys(figures.SHORT, 0.1234)
EMBEDDINGS = dict.fromkeys(["cosine", "frechet", "diversity", "median_rank", "recall_at_1", "recall_at_5"], 0.5678)


def test_every_figure_is_whole_on_a_terminal_of_80_columns(monkeypatch):
    console = Console(file=io.StringIO(), width=WIDTH, highlight=False)
    monkeypatch.setattr(figures, "out", console)
    monkeypatch.setattr(terminal, "out", console)
    priors = {"prior_diffusion": {**EMBEDDINGS, "diversity_within": -0.0001}}
    print_metrics("shapes", {"num_captions": 240, "conditionings": {"prior_diffusion": FIGURES}, "priors": priors})
    shown = console.file.getvalue()
    assert max(map(len, shown.splitlines())) <= WIDTH
    assert shown.count("0.123") == len(FIGURES)
    assert shown.count("0.568") == len(EMBEDDINGS)
    assert " 0.000" in shown


def test_a_caption_in_brackets_is_printed_as_it_is(capsys):
    terminal.out.print(terminal.table("", ["caption"], [["a [red] box [/there]"]]))
    assert "a [red] box [/there]" in capsys.readouterr().out


def test_what_a_source_says_besides_is_a_line_that_fits():
    assert cli_dumps._further({"punsafe": 0.25, "empty": None, "tags": ["x"]}) == "punsafe 0.25, tags ['x']"
    assert len(cli_dumps._further({"note": "long " * 99})) == 80
    fields = {str(number): {"kind": "int", "rows": 1_000} for number in range(30)}
    assert cli_dumps._fields(fields)[19:] == ["19: int, of 1,000 rows", "and 10 more"]
