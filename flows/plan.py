"""What a run would build and why, without building anything."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from flows.graph import MAX_BESIDE, Graph, Stage, Step
from unclip.artifact import Artifact
from unclip.lineage import differences
from unclip.recipe import recipe_config
from unclip.runs import runs_of

Made = dict[str, tuple[Artifact | None, ...]]  # by stage; None of what is to be made


@dataclass(frozen=True)
class Plan:
    """One stage of a plan: artifacts found and to make, why, and what the last time says of time and disk."""

    stage: str
    num_found: int
    num_missing: int
    why: str
    seconds: float | None  # of what is missing: as long as it took the last time, a trained stage by its samples
    num_bytes: int | None
    artifact: str  # the key, where there is one and it is found


def plan(graph: Graph, until: str | None = None) -> list[Plan]:
    """Every stage in order. A stage whose input is still to be made may yet be found: content decides."""
    made: Made = {}
    return [_planned(graph, stage, made) for stage in graph.stages(until)]


def is_complete(plans: list[Plan]) -> bool:
    """Whether there is nothing to make."""
    return all(p.num_missing == 0 for p in plans)


def expectation(plans: list[Plan], graph: Graph) -> str:
    """How long a run will take, in words."""
    unknown = [p.seconds is None for p in plans if p.num_missing]
    if not unknown:
        return "nothing to do"
    if all(unknown):
        return "no run knows yet how long"
    return f"about {total_seconds(plans, graph):.0f} s{' and what no run knows yet' * any(unknown)}"


def total_seconds(plans: list[Plan], graph: Graph) -> float:
    """How long all of it takes as far as that is known; stages of a group run side by side."""
    seconds = {p.stage: p.seconds or 0.0 for p in plans}
    return sum(_beside([seconds.get(stage.name, 0.0) for stage in group]) for group in graph.groups())


def _beside(seconds: list[float]) -> float:
    """How long stages of one group take: the next one starts when there is room."""
    lanes = [0.0] * MAX_BESIDE
    for one in seconds:
        lanes[lanes.index(min(lanes))] += one
    return max(lanes)


def _planned(graph: Graph, stage: Stage, made: Made) -> Plan:
    steps = list(graph.steps(stage, made))
    found = tuple(s.found for s in steps if s.found is not None)
    missing = [s for s in steps if s.found is None]
    made[stage.name] = tuple(s.found for s in steps)
    past = _last_manifests(graph, stage)
    seconds, num_bytes = _expected(past, missing)
    key = found[0].key if len(found) == 1 and not missing else ""
    return Plan(stage.name, len(found), len(missing), _why(graph, stage, missing, made, past), seconds, num_bytes, key)


def _why(graph: Graph, stage: Stage, missing: list[Step], made: Made, past: list[dict[str, Any]]) -> str:
    if not missing:
        return ""
    step = missing[0]
    if step.recipe is None:
        waits = [source for source in graph.inputs_of(stage).values() if None in made[source]]
        return f"input {', '.join(waits[:3])}{' …' if len(waits) > 3 else ''} is to be made"
    if not past:
        return "never made in this store"
    before = past[min(step.shard or 0, len(past) - 1)]
    if step.shard is not None and step.shard >= len(past):
        return f"new: shard {step.shard}" + (f" to {missing[-1].shard}" if len(missing) > 1 else "")
    if before["key"] == step.recipe.key:
        return "its artifact is gone or damaged"
    return "; ".join(_changes(before["recipe"], step.recipe.as_dict()))


def _changes(before: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    for where, left, right in differences(before["config"], now["config"]):
        yield f"{where} {left!r} → {right!r}"
    for name in now["inputs"]:
        if before["inputs"].get(name) != now["inputs"][name]:
            yield f"input {name} changed"
    if before["code"] != now["code"]:
        yield "its code changed"
    if before["seed"] != now["seed"]:
        yield f"seed {before['seed']} → {now['seed']}"


def _last_manifests(graph: Graph, stage: Stage) -> list[dict[str, Any]]:
    """Of the stage's artifacts in the newest run of this pipeline that got there; in shard order."""
    for run in runs_of(graph.store, graph.name):
        manifests = [m for key in run.keys(stage.name) for m in graph.store.ledger.matching(key)]
        if manifests:
            return manifests
    return []


def _expected(past: list[dict[str, Any]], missing: list[Step]) -> tuple[float | None, int | None]:
    """Seconds and bytes of what is missing, by the mean of the last time; nothing where there was none."""
    if not past or not missing:
        return (None, None) if missing else (0.0, 0)
    num_bytes = int(sum(entry["bytes"] for m in past for entry in m["files"].values()) / len(past) * len(missing))
    now, then = _num_samples(recipe_config(missing[0].config)), _num_samples(past[0]["recipe"]["config"])
    if (now is None) != (then is None):  # a network trained now and loaded then, or the other way round
        return None, num_bytes
    seconds = sum(m["seconds"] for m in past) / len(past) * (now / then if now and then else 1)
    return round(seconds * len(missing), 1), num_bytes


def _num_samples(config: dict[str, Any]) -> int | None:
    """The samples that a stage trains on, each as often as it does; None where it trains nothing."""
    train = config.get("train")
    return train and train["num_steps"] * train["batch_size"] * (2 if train.get("sam_rho") else 1)
