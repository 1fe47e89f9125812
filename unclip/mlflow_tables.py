"""Tables as MLflow's pages show them: what `MlflowClient.log_table` writes, but written over instead of added to."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unclip.data.funnel import read_funnel

LOGGED = "mlflow.loggedArtifacts"
COLUMNS = ("stage", "reason", "rows_in", "dropped", "rows_out")


def log_table(client: Any, run: str, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Show a table in a run; the same name again replaces it."""
    client.log_text(run, json.dumps({"columns": list(columns), "data": [list(row) for row in rows]}), name)
    logged = json.loads(client.get_run(run).data.tags.get(LOGGED, "[]"))
    entry = {"path": name, "type": "table"}
    if entry not in logged:
        client.set_tag(run, LOGGED, json.dumps([*logged, entry]))


def log_funnel(client: Any, run: str, folder: Path) -> dict[str, float]:
    """Show the funnel of an artifact in a run, if it has one; its figures."""
    path = folder / "funnel.json"
    if not path.is_file():
        return {}
    steps = read_funnel(path)
    rows = [[line[name] for name in COLUMNS] for line in (step.as_dict() for step in steps)]
    log_table(client, run, "funnel_table.json", COLUMNS, rows)
    figures = {f"dropped.{step.stage}.{step.reason}": float(step.dropped) for step in steps}
    return {"rows_in": float(steps[0].rows_in), "rows_kept": float(steps[-1].rows_out), **figures}
