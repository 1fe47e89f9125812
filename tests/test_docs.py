"""The README says nothing that the program does not know."""

import re
from pathlib import Path

import pytest
import yaml

from flows.cli import app, load_verbs

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def verbs():
    load_verbs()
    return {command.name or command.callback.__name__ for command in app.registered_commands}


def test_every_verb_of_the_readme_exists():
    assert set(re.findall(r"unclip ([a-z-]+)", README)) <= verbs()


def test_every_verb_is_in_the_readme():
    table = README[README.index("## Verbs") : README.index("## How it works")]
    assert verbs() <= set(re.findall(r"[`,] ?`?([a-z-]+)", table))


def test_every_verb_of_the_table_exists():
    table = README[README.index("## Verbs") : README.index("## How it works")]
    first_cells = re.findall(r"^\| (`.*?`) \|", table, re.MULTILINE)
    assert {verb for cell in first_cells for verb in re.findall(r"`([a-z-]+)", cell)} <= verbs()


@pytest.mark.parametrize("path", re.findall(r"^([a-z./]+/|[a-z]+\.yaml|docs/log\.md) ", README, re.MULTILINE))
def test_every_path_of_the_tree_exists(path):
    assert (ROOT / path).exists()


def test_every_picture_of_the_readme_is_there():
    assert all((ROOT / picture).is_file() for picture in re.findall(r"!\[[^]]*\]\(([^)]+)\)", README))


def test_every_pipeline_is_in_the_readme():
    for name in yaml.safe_load((ROOT / "pipelines.yaml").read_text()):
        assert f"| `{name}` |" in README
