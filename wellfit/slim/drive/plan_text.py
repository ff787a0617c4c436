"""A plan for people."""

from __future__ import annotations

from wellfit.report.safe import printable
from wellfit.slim.drive.layers import Network
from wellfit.slim.drive.plan import Plan
from wellfit.slim.printing import NAME, SHOWN, table


def plan_text(plan: Plan, network: Network) -> str:
    """The table of a plan."""
    rows = [("layer", "parameters", "of all bytes", "sensitivity", "method", "keep", "values", "bytes")]
    for layer in plan.layers[:SHOWN]:
        tensor = network.tensors[layer.name]
        rows.append((
            printable(layer.name, NAME), f"{layer.parameters:,}", f"{tensor.bytes / network.bytes:.1%}",
            f"{network.sensitivity[layer.name]:.1%}", str(layer.method), f"{layer.keep:.3g}",
            f"{layer.fewer_values}" if layer.values else "", f"{layer.predicted:,.0f}",
        ))  # fmt: skip
    left = [name for name in network.tensors if name not in network.weights]
    more = len(plan.layers) - SHOWN
    lines = ["", "Plan", *table(rows, (0, 4))]
    lines += [f"... and {more} more layers"] * (more > 0)
    lines += [f"{printable(name, NAME)} is left alone: {why}." for name, why in list(plan.left.items())[:SHOWN]]
    lines += [
        "Sensitivity: how far the network's outputs move with 80 % of that layer alone set to 0, before training.",
        *["What each layer keeps is settled while it is trained, biases with them; the sum holds."] * plan.together,
        f"{len(left)} other tensors (biases, norms, buffers) are left alone or rounded: {plan.around:,.0f} bytes.",
        f"Predicted: {plan.predicted:,.0f} of {network.bytes:,} bytes, {network.bytes / plan.predicted:.1f}x smaller.",
        "",
    ]
    return "\n".join(lines) + "\n"
