"""What an index says of itself, for people; without FAISS, which takes long to load."""

from collections.abc import Mapping
from typing import Any


def index_words(figures: Mapping[str, Any]) -> list[str]:
    """The kind of an index and why, how many lists a search looks into, and its recall, out of `index.json`."""
    words = [f"{figures['kind']} ({figures['reason']})"]
    if "num_probes" in figures:
        words.append(f"{figures['num_probes']} of {figures['num_lists']} lists searched")
    return [*words, f"recall@1 {figures['recall_at_1']:.3f}, @10 {figures['recall_at_10']:.3f}"]


def index_line(figures: Mapping[str, Any]) -> str:
    """The same in one line."""
    return f"index: {', '.join(index_words(figures))}"
