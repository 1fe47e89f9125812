"""New code that changes no result, said on the record."""

import json

from flows.graph import STAGES, Graph
from unclip.recipe import code_digest
from unclip.runs import last_artifacts
from unclip.store import write_atomically


def accept_code(graph: Graph, name: str) -> str:
    """What was written down: from now on the stage's present code counts as the code of its last artifact.

    Raises:
        ValueError: no such stage, or no artifact of it.
    """
    stage = next((s for s in STAGES if s.name == name), None)
    if stage is None:
        raise ValueError(f"stage must be one of {', '.join(s.name for s in STAGES)}; got '{name}'")
    artifact = last_artifacts(graph.store, graph.name, name)[0]
    before, now = artifact.manifest()["recipe"]["code"], code_digest(stage.code)
    if graph.code_of(stage) == before:
        return f"{name}: the code has not changed since {artifact.key[:12]}"
    accepted = {code: equal for code, equal in graph.accepted.items() if code != before}  # so that it ends there
    if now != before:
        accepted[now] = before
    write_atomically(graph.store.root / "accepted.json", json.dumps(accepted, indent=1))
    return f"{name}: code {now[:12]} counts as {before[:12]}, which made {artifact.key[:12]}"
