"""The README says nothing that the program does not know."""

import re
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from flows.cli import app, load_verbs

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *(path for path in sorted((ROOT / "docs").glob("*.md")) if path.name != "log.md")]
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


def verbs():
    load_verbs()
    return {command.name or command.callback.__name__ for command in app.registered_commands}


def test_every_verb_of_the_readme_exists():
    assert set(re.findall(r"unclip ([a-z-]+)", README)) <= verbs()


def test_every_verb_is_in_the_readme():
    table = README[README.index("## Verbs") : README.index("## How it works")]
    assert verbs() <= set(re.findall(r"[`,] ?`?([a-z-]+)", table))


def options():
    """The options of each verb."""
    load_verbs()
    commands = get_command(app).commands
    return {name: {text for one in command.params for text in one.opts} for name, command in commands.items()}


def test_no_help_says_in_square_brackets_what_the_terminal_would_swallow():
    load_verbs()
    commands = get_command(app).commands.values()
    helps = [getattr(one, "help", None) or "" for command in commands for one in (command, *command.params)]
    assert len(helps) > 50 and not [text for text in helps if re.search(r"\[[a-z/]", text)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_option_in_a_command_of_the_pages_is_that_verbs(page):
    known = options()
    for verb, words in re.findall(r"unclip ([a-z-]+)((?:[^`\n#]|\\\n)*)", page.read_text()):
        assert set(re.findall(r"(?<=\s)--?[a-z][a-z-]*", words)) <= known[verb], (verb, words)


def test_every_option_of_the_pages_is_a_verbs_or_a_benchmarks():
    known = set.union(*options().values())
    known |= {name for path in (ROOT / "benchmarks").glob("*.py") for name in OPTION.findall(path.read_text())}
    assert {name for page in PAGES for name in OPTION.findall(page.read_text())} <= known


def test_every_verb_of_the_table_exists():
    table = README[README.index("## Verbs") : README.index("## How it works")]
    first_cells = re.findall(r"^\| (`.*?`) \|", table, re.MULTILINE)
    assert {verb for cell in first_cells for verb in re.findall(r"`([a-z-]+)", cell)} <= verbs()


@pytest.mark.parametrize("path", re.findall(r"^([a-z./]+/|[a-z]+\.yaml|docs/log\.md) ", README, re.MULTILINE))
def test_every_path_of_the_tree_exists(path):
    assert (ROOT / path).exists()


def test_every_picture_of_the_readme_is_there():
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", README)
    assert pictures and all((ROOT / picture).is_file() for picture in pictures)


def test_every_pipeline_is_in_the_readme():
    for name in yaml.safe_load((ROOT / "pipelines.yaml").read_text()):
        assert f"| `{name}` |" in README
