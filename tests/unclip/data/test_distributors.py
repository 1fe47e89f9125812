"""Facts about downloads by Ray and by Spark, with clusters of their own on this machine. The libraries lie aside."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unclip.data import web_server as web
from tests.unclip.data.data_fixtures import needs_tool
from tests.unclip.data.test_download import CONFIG, freeze
from unclip.data.download import download
from unclip.data.fetch import TOOL_VARIABLE, tool_python
from unclip.data.rows import read_rows

ROOT = Path(__file__).resolve().parent.parent.parent.parent
NAMES = ["plain.jpg", "none.jpg", "plain.png", "page.html", "hostile-to-private", "wide.png"]

SPARK = "half a gigabyte, and Java: python -m pip install --target .tools/pyspark pyspark"
needs_spark = pytest.mark.skipif(
    not (ROOT / ".tools" / "pyspark").is_dir(), reason=f"Spark lies aside by choice: {SPARK}"
)

pytestmark = needs_tool


def tool_with(folder, distributor):
    """img2dataset's environment with one library more: a Python that looks into both folders."""
    there = tool_python().parent.parent / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
    aside = ROOT / ".tools" / distributor
    assert aside.is_dir(), "make aside has not been run"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    place = folder / "lib" / there.parent.name / "site-packages" / "both.pth"
    place.write_text(f"{there}\n{aside}\n")
    return folder / "bin" / "python"


@pytest.mark.parametrize("distributor", ["ray", pytest.param("pyspark", marks=needs_spark)])
def test_a_distributor_makes_the_shard_that_processes_here_make(distributor, tmp_path, monkeypatch):
    with web.serving() as address:
        lines = [(f"{address}/{name}", f"word {number}") for number, name in enumerate(NAMES * 3)]
        for folder, config in (("here", CONFIG), ("there", replace(CONFIG, distributor=distributor))):
            if folder == "there":
                monkeypatch.setenv(TOOL_VARIABLE, str(tool_with(tmp_path / "tool", distributor)))
            download(freeze(tmp_path / folder, lines), 0, config, tmp_path / folder, lambda *_, **__: None)
    here, there = (read_rows(tmp_path / folder / "rows.parquet") for folder in ("here", "there"))
    assert here == there and sum(row.status == "ok" for row in here) == 9
    shards = [(tmp_path / folder / "shard.tar").read_bytes() for folder in ("here", "there")]
    assert shards[0] == shards[1]
