"""The command line as a user has it: a process of its own, the shrunken pipeline, a store."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
UNCLIP = str(Path(sys.executable).with_name("unclip"))


@dataclass(frozen=True)
class CommandLine:
    """`unclip` over one store; `unclip("run", "shrunken")` gives what came out of it."""

    store: Path

    @property
    def environment(self) -> dict[str, str]:
        ours = {"UNCLIP_STORE": str(self.store), "UNCLIP_FILE": str(ROOT / "tests" / "shrunken.yaml")}
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "UNCLIP_"))}
        return kept | ours | {"OMP_NUM_THREADS": "1"}

    def __call__(self, *arguments: Any) -> subprocess.CompletedProcess[str]:
        argv = [UNCLIP, *map(str, arguments)]
        return subprocess.run(argv, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=280)

    def start(self, *arguments: Any) -> subprocess.Popen[str]:
        """The command in a process group of its own, as a shell starts it."""
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(
            [UNCLIP, *map(str, arguments)], cwd=ROOT, env=self.environment, start_new_session=True, **pipes
        )

    def processes(self) -> Iterator[str]:
        """What runs for this store: every process with the store in its environment or its command line."""
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                words = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
            except OSError:
                continue
            if os.fsencode(self.store) in words:
                yield f"{entry.name} {(entry / 'cmdline').read_bytes()!r}"


@pytest.fixture
def unclip(tmp_path: Path) -> CommandLine:
    return CommandLine(tmp_path / "store")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> CommandLine:
    """One store for all tests of a file."""
    return CommandLine(tmp_path_factory.mktemp("shared") / "store")
