"""What a pipeline's networks cost, as a table on the terminal."""

from flows.config import Pipeline
from flows.terminal import out, size, table
from tasks.costs import FULL_VOCABULARY, GPU, PAPER_PARAMETERS, STATE_BYTES, UTILISATION, Cost, network_costs

COLUMNS = ["network", "parameters", "paper's", "state", "activations", "FLOPs", "samples", "GPU hours"]


def print_costs(name: str, pipeline: Pipeline) -> None:
    """Every network beside the paper's; where table 3 makes another size than it says, why."""
    costs = network_costs(pipeline)
    out.print(table(f"networks of {name}", COLUMNS, [_row(cost) for cost in costs], COLUMNS[1:]))
    for cost in costs:
        if cost.remark:
            out.print(f"{cost.part}: {cost.remark}")
    if pipeline.clip.network is not None:
        out.print(
            f"counted with open_clip's {FULL_VOCABULARY:,} tokens; a CLIP trained here keeps those of its captions, "
            "and is smaller, as are priors and decoder"
        )
    out.print(
        f"state: {STATE_BYTES} bytes a parameter (weight, gradient, average, two moments); activations, FLOPs: of one "
        f"sample, forward and backward, kept in bf16; GPU hours: of an {GPU} at {UTILISATION:.0%} of its peak"
    )


def _row(cost: Cost) -> list[str]:
    theirs = PAPER_PARAMETERS.get(cost.part)
    return [
        cost.part,
        _short(cost.num_parameters),
        _short(theirs) if theirs else "",
        size(cost.state_bytes),
        size(cost.activation_bytes),
        _short(cost.flops),
        _short(cost.num_samples) if cost.num_samples else "",
        f"{cost.gpu_hours:,.0f}" if cost.gpu_hours >= 10 else f"{cost.gpu_hours:.2g}",
    ]


def _short(count: float) -> str:
    """A count for people: `3.56B`, `281M`, `14.9T`."""
    for unit in ("", "k", "M", "B"):
        if count < 999.5:
            return f"{count:.3g}{unit}"
        count /= 1000
    return f"{count:,.3g}T" if count < 1000 else f"{count:,.0f}T"
