import os
from dataclasses import dataclass

import pytest

from unclip import recipe as module
from unclip.recipe import NEUTRAL_MODULES, Recipe, code_digest, code_modules, digest_of, neutral, recipe_config


@dataclass(frozen=True)
class Settings:
    width: int = 8
    workers: int = neutral(2)


@pytest.fixture
def source_tree(tmp_path, monkeypatch):
    """A small repository of its own in place of ours."""
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    module._facts.cache_clear()
    (tmp_path / "models").mkdir()
    yield tmp_path / "models"
    module._facts.cache_clear()


def digest_with(folder, text):
    (folder / "a.py").write_text("from models import b\n\n\ndef f():\n    return b.g()\n")
    (folder / "b.py").write_text(text)
    for name in ("a.py", "b.py"):
        os.utime(folder / name, (1, 1))  # settled: what it holds is remembered
    module._facts.cache_clear()
    return code_digest(("models.a",))


def test_comments_layout_and_docstrings_do_not_change_the_code_digest(source_tree):
    plain = digest_with(source_tree, "def g():\n    return 1\n")
    assert plain == digest_with(source_tree, '# why\ndef g():\n    """One."""\n\n    return (1)\n')


def test_a_change_in_an_imported_module_changes_the_code_digest(source_tree):
    assert digest_with(source_tree, "def g(): return 1\n") != digest_with(source_tree, "def g(): return 2\n")


def test_a_module_that_has_not_changed_is_not_parsed_again(source_tree, monkeypatch):
    before = digest_with(source_tree, "def g(): return 1\n")
    monkeypatch.setattr(module, "_parsed", lambda path: pytest.fail(f"{path} was parsed again"))
    module._facts.cache_clear()
    assert code_digest(("models.a",)) == before


def test_a_decoder_does_not_count_the_priors():
    modules = code_modules(("tasks.decoder",))
    assert "models.decoder" in modules and "models.unet" in modules
    assert not {"models.diffusion_prior", "models.ar_prior", "tasks.loading"} & modules


def test_the_training_loop_counts_for_every_trained_stage():
    assert "unclip.training.loop" in code_modules(("tasks.prior_ar", "tasks.worker")) - NEUTRAL_MODULES


def test_a_neutral_setting_is_left_out_of_the_recipe():
    assert recipe_config(Settings(workers=8)) == {"width": 8}


def test_the_key_depends_on_every_part_of_the_recipe():
    base = {"stage": "pca", "config": {"a": 1}, "inputs": {"embed": ("x",)}, "code": "c", "seed": 0}
    changed = [{"stage": "x"}, {"config": {"a": 2}}, {"inputs": {"embed": ("y",)}}, {"code": "d"}, {"seed": 1}]
    assert len({Recipe(**base).key, *(Recipe(**(base | change)).key for change in changed)}) == 6


def test_the_order_of_keys_does_not_change_a_digest():
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})
