"""Imports go one way, packages are ours, and what must answer at once imports nothing heavy."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAY_IMPORT = {
    "flows": {"flows", "tasks", "models", "unclip"},
    "tasks": {"tasks", "models", "unclip"},
    "models": {"models"},
    "unclip": {"unclip"},
}
HEAVY = {"torch", "prefect", "mlflow", "faiss", "open_clip"}
ARRAYS = {"numpy", "pyarrow"}  # of a URL list a plan may need them


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_go_one_way(package):
    for path in (ROOT / package).rglob("*.py"):
        ours = {name.split(".")[0] for name in imported(path)} & set(MAY_IMPORT)
        assert ours <= MAY_IMPORT[package], f"{path} imports {ours - MAY_IMPORT[package]}"


def test_models_touch_no_files_logs_or_orchestration():
    for path in (ROOT / "models").rglob("*.py"):
        roots = {name.split(".")[0] for name in imported(path)}
        assert not roots & {"pathlib", "os", "logging", "prefect", "mlflow", "safetensors", "rich"}, path


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_each_package_is_ours(package):
    module = __import__(package)
    assert Path(module.__file__).resolve() == ROOT / package / "__init__.py"


@pytest.mark.parametrize(("arguments", "heavy"), [(["--help"], HEAVY | ARRAYS), (["plan", "shapes"], HEAVY)])
def test_what_answers_at_once_imports_nothing_heavy(arguments, heavy, tmp_path):
    program = (
        "import sys\nfrom flows.cli import main\n"
        f"sys.argv = ['unclip', *{arguments}]\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"print('HEAVY', sorted({heavy} & set(sys.modules)))"
    )
    environment = {"UNCLIP_STORE": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "HEAVY []", done.stderr


def test_no_pickle_is_loaded():
    for package in MAY_IMPORT:
        for path in (ROOT / package).rglob("*.py"):
            assert not {"pickle", "joblib", "dill"} & {name.split(".")[0] for name in imported(path)}, path
            assert "torch.load" not in path.read_text(), path
