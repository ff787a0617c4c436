"""Weights of fewer bits, run by torch's own kernels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from wellfit.slim.changes._convs import finite
from wellfit.slim.changes._replacement import Replacement
from wellfit.slim.changes._swap import layer_at, like
from wellfit.slim.changes.change import Change, Unfit

if TYPE_CHECKING:
    import torch
    from torch import nn

KINDS = ("int8", "static", "bf16", "fp8", "int4")
TRAINING = "qat"
GROUPS = (32, 64, 128, 256)
LARGEST_E4M3 = 448.0


@dataclass(frozen=True)
class Quantised(Replacement):
    """A layer with weights of fewer bits, its state in plain tensors.

    Kinds:
        int8: Linear, LSTM, GRU. Weights `round(w / s)`, `s = max|w| / 127` for each output; activations are rounded to
            8 bits over the range of each batch.
        static: Linear, Conv2d. The same, with ranges of the activations that were measured: `inputs`, and `outputs` for
            convolutions.
        bf16: Linear, Conv1d, Conv2d, Conv3d. Computes in bfloat16; goes on training.
        fp8: Linear. Weights in e4m3 with a scale for each output; smaller only.
        int4: Linear. Weights of 4 bits, a scale and a shift for each `group` inputs.
        qat: Linear, Conv2d. Nothing is smaller yet: the layer trains with the rounding of int8 in its forward pass;
            int8 or static follows.

    Args:
        layer: as in `model.named_modules()`.
        kind: one of the above.
        group: 32, 64, 128 or 256; for int4.
        inputs, outputs: smallest and largest activation; for static. `redo` needs none.

    Source: Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference,
    2018; Micikevicius et al., FP8 Formats for Deep Learning, 2022.
    """

    name: ClassVar[str] = "quantised"
    kind: str
    group: int = 32
    inputs: tuple[float, float] | None = None
    outputs: tuple[float, float] | None = None

    def stored(self) -> Change:
        """See `Change.stored`: what was measured lies in the state."""
        return Quantised(self.layer, self.kind, self.group)

    def checked(self, model: nn.Module) -> Any:
        """See `Replacement.checked`."""
        old: Any = layer_at(model, self.layer, self._fitting())
        padding = getattr(old, "padding", None)
        if self.kind == "static" and (isinstance(padding, str) or getattr(old, "padding_mode", "zeros") != "zeros"):
            raise Unfit(f"{self.layer}: its padding is not a number of zeros")
        if getattr(old, "proj_size", 0):
            raise Unfit(f"{self.layer}: it has projections, which torch's int8 kernel has not")
        if self.kind == "int4" and self.group not in GROUPS:
            raise Unfit(f"{self.layer}: groups have 32, 64, 128 or 256 inputs, not {self.group}")
        return old

    def _fitting(self) -> tuple[type[nn.Module], ...]:
        from torch import nn

        from wellfit.slim.layers.rounded import RoundedConv2d, RoundedLinear

        fitting: dict[str, tuple[type[nn.Module], ...]] = {
            "int8": (nn.Linear, nn.LSTM, nn.GRU, RoundedLinear),
            "static": (nn.Linear, nn.Conv2d, RoundedLinear, RoundedConv2d),
            "qat": (nn.Linear, nn.Conv2d),
            "bf16": (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d),
            "fp8": (nn.Linear,),
            "int4": (nn.Linear,),
        }
        if self.kind not in fitting:
            raise Unfit(f'{self.layer}: there is no kind "{self.kind[:40]}"; there are {", ".join((*KINDS, TRAINING))}')
        return fitting[self.kind]

    def _made(self, old: Any) -> Any:
        from torch import nn

        from wellfit.slim.layers import quantised as layers
        from wellfit.slim.layers.int8_recurrent import Int8Recurrent

        if self.kind == "bf16":
            return layers.InBFloat16(old)
        if self.kind == TRAINING:
            return _rounding(old)
        if isinstance(old, nn.RNNBase):
            made: Any = Int8Recurrent(old)  # type: ignore[arg-type]
        elif isinstance(old, nn.Conv2d):
            made = layers.Int8Conv2d(old)
        else:
            sizes = (old.in_features, old.out_features, old.bias is not None)
            if self.kind == "int4":
                made = layers.Int4Linear(*sizes, self.group, **like(old))
            elif self.kind == "fp8":
                made = layers.Fp8Linear(*sizes, **like(old))
            else:
                made = layers.Int8Linear(*sizes, self.kind == "static", **like(old))
        return made

    def _fill(self, old: Any, new: Any) -> None:
        from torch import nn

        if self.kind == "bf16":
            return
        if self.kind == TRAINING:
            new.load_state_dict(old.state_dict())
            return
        known: dict[str, torch.Tensor] = {}
        if isinstance(old, nn.RNNBase):
            for name, parameter in old.named_parameters():
                if name.startswith("bias"):
                    known[name] = parameter
                else:
                    known[name], known[f"{name}_scale"] = int8(parameter)
        else:
            known = self._weights(old.weight)
            if old.bias is not None:
                known["bias"] = old.bias
        if self.kind == "static":
            known |= self._points(isinstance(old, nn.Conv2d))
        for name, tensor in (*new.named_buffers(), *new.named_parameters()):
            tensor.copy_(known[name])

    def _weights(self, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        if self.kind == "int4":
            levels, scale, shift = int4(weight, self.group)
            return {"weight": levels[:, ::2] | levels[:, 1::2] << 4, "scale": scale, "shift": shift}
        values, scale = fp8(weight) if self.kind == "fp8" else int8(weight)
        return {"weight": values, "scale": scale}

    def _points(self, with_outputs: bool) -> dict[str, torch.Tensor]:
        """Scale and zero point of activations, from their ranges."""
        import torch

        points: dict[str, torch.Tensor] = {}
        for end, span in (("input", self.inputs), ("output", self.outputs))[: 1 + with_outputs]:
            if span is None or not span[0] <= span[1] or span[1] - span[0] == float("inf"):
                raise Unfit(f"{self.layer}: the range of its {end}s was not measured")
            low, high = min(span[0], 0.0), max(span[1], 0.0)
            scale = max((high - low) / (127 if _narrow() else 255), 1e-12)
            points[f"{end}_scale"] = torch.tensor(scale)
            points[f"{end}_zero"] = torch.tensor(round(-low / scale), dtype=torch.int32)
        return points


def _rounding(old: Any) -> nn.Module:
    """The layer that trains for 8 bits, of the shape of this one."""
    from torch import nn

    from wellfit.slim.changes._convs import geometry
    from wellfit.slim.layers.rounded import RoundedConv2d, RoundedLinear

    options = {"bias": old.bias is not None, **like(old)}
    if isinstance(old, nn.Linear):
        return RoundedLinear(old.in_features, old.out_features, **options)
    return RoundedConv2d(old.in_channels, old.out_channels, groups=old.groups, **geometry(old), **options)


def int8(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """int8 (outputs, ...) and float32 scales (outputs,): w ~ q s, s = max|w| / 127.

    Raises:
        Unfit: the weights are not finite.
    """
    import torch

    wide = finite(weight)
    scale = (wide.abs().flatten(1).amax(1) / 127).clamp(min=1e-30).float()
    shaped = scale.double().reshape(-1, *[1] * (wide.ndim - 1))
    return (wide / shaped).round().clamp(-127, 127).to(torch.int8), scale


def fp8(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The bits of float8_e4m3fn as uint8 (outputs, inputs), and float32 scales (outputs,), max|w| / 448.

    Raises:
        Unfit: the weights are not finite.
    """
    import torch

    wide = finite(weight)
    scale = (wide.abs().amax(1) / LARGEST_E4M3).clamp(min=1e-30).float()
    small = (wide / scale.double()[:, None]).clamp(-LARGEST_E4M3, LARGEST_E4M3).to(torch.float8_e4m3fn)
    return small.view(torch.uint8), scale


def int4(weight: torch.Tensor, group: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Levels 0 .. 15 as uint8 (outputs, inputs filled up to whole groups), and float32 scales and shifts
    (outputs, groups): w ~ (level - 8) scale + shift, from the smallest and the largest weight of a group.

    Raises:
        Unfit: the weights are not finite.
    """
    import torch

    filled = torch.nn.functional.pad(finite(weight), (0, -weight.shape[1] % group))
    wide = filled.reshape(filled.shape[0], -1, group)
    low, high = wide.amin(-1), wide.amax(-1)
    scale = ((high - low) / 15).clamp(min=1e-30).float()
    levels = ((wide - low.unsqueeze(-1)) / scale.double().unsqueeze(-1)).round().clamp(0, 15)
    return levels.to(torch.uint8).flatten(1), scale, (low + 8 * scale.double()).float()


def _narrow() -> bool:
    from wellfit.slim.layers.quantised import reduced_range

    return reduced_range()
