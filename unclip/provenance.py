"""Where and with what something was made: commit, environment, machine."""

import os
import platform
import subprocess
from functools import cache
from importlib.metadata import distributions
from typing import Any

from unclip.recipe import ROOT, digest_of


@cache
def provenance() -> dict[str, Any]:
    """Git commit, digest of the installed packages and the machine, as a manifest records them."""
    return {"git": git_state(), "environment": environment_digest(), "hardware": hardware()}


def git_state() -> dict[str, Any]:
    """The commit this code is at and whether files differ from it; `None` outside a checkout."""
    commit = _git("rev-parse", "HEAD")
    return {"commit": commit, "dirty": bool(_git("status", "--porcelain")) if commit else None}


def environment_digest() -> str:
    """A digest of the Python version and of name and version of every installed package."""
    packages = sorted({f"{d.metadata['Name']}=={d.version}" for d in distributions()})
    return digest_of([platform.python_version(), *packages])


def hardware() -> dict[str, Any]:
    """The kind of machine, its cores and its memory in GB."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"machine": platform.machine(), "cores": os.cpu_count(), "memory_gb": round(memory / 1e9, 1)}


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
