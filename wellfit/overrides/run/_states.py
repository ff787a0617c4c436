"""What optimizers keep of a model's parameters, where these are moved or cast after the optimizers were made."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer


def follow_model(root: nn.Module, optimizers: Iterable[Optimizer]) -> None:
    """Bring what optimizers keep of the parameters of a model (from a checkpoint, say) to where these are now, and to
    their type. Counts of steps keep theirs, as torch's own `load_state_dict` has it."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            on_device = bool(group.get("capturable") or group.get("fused"))
            held = {id(parameter) for parameter in group["params"]}
            for parameter in root.parameters():
                state = optimizer.state.get(parameter) if id(parameter) in held else None
                if isinstance(state, dict):
                    _follow(parameter, state, on_device)


def _follow(parameter: nn.Parameter, state: dict[str, Any], on_device: bool) -> None:
    from wellfit.overrides.nested import mapped

    def moved(tensor: Tensor) -> Tensor:
        cast = tensor.is_floating_point() and parameter.is_floating_point()
        return tensor.to(parameter if cast else parameter.device)

    for key, value in state.items():
        if key != "step":
            state[key] = mapped(value, moved)
        elif on_device and hasattr(value, "device"):
            state[key] = value.to(parameter.device)
