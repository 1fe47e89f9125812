"""The losses of every trained stage of a run, step by step: `python tests/flows/golden.py STORE` writes them anew."""

import json
import sys
from pathlib import Path

from flows.graph import TRAINED

GOLDEN = Path(__file__).with_name("golden_losses.json")
STAGES = ("clip", *TRAINED)


def losses_of(store: Path) -> dict[str, list[float]]:
    """By stage; the store holds one artifact of each."""
    curves = {stage: next((store / "artifacts" / stage).glob("*/curve.jsonl")) for stage in STAGES}
    return {
        stage: [round(json.loads(line)["loss"], 6) for line in curve.read_text().splitlines()]
        for stage, curve in curves.items()
    }


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(losses_of(Path(sys.argv[1])), indent=1) + "\n")
