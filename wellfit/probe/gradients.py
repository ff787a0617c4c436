"""Where gradients come from and go: kept from an earlier step, or cleared before they were used.

Only identities and version counters are read, never values, except once to confirm a suspicion. `.grad.data.zero_()`
does not bump the version, so a gradient that looks kept is compared with zero before it is reported.
"""

from __future__ import annotations

from typing import Any

import torch

VALUE_CHECKS = 8  # values read to confirm that a gradient was kept; after that the verdict so far stands


class GradientWatch:
    """Follows the gradient object of one parameter of one optimizer.

    Between two steps of its optimizer a gradient may be: replaced by a new object or zeroed (clean), only added to
    (stale), or not reached at all.
    """

    __slots__ = ("checks", "cleaned", "kept", "object", "parameter", "version", "zeros")

    def __init__(self, parameter: torch.Tensor) -> None:
        self.parameter = parameter
        self.object: Any = None  # the gradient as the last step left it
        self.version = 0
        self.kept = False  # added to without having been cleaned since the last step
        self.cleaned = False
        self.checks = 0
        self.zeros = 0

    def before_backward(self) -> None:
        """The old value is still there only if nothing touched the gradient and it is not zero."""
        gradient = self.parameter.grad
        if gradient is None or gradient is not self.object or self.cleaned or self.kept:
            return
        if gradient._version != self.version:
            self.cleaned = True
        elif self.checks < VALUE_CHECKS and _is_readable(gradient):
            self.checks += 1
            if not bool(torch.count_nonzero(gradient.detach())):
                self.zeros += 1
                self.cleaned = True
        else:
            self.cleaned = self.zeros > 0

    def after_backward(self) -> None:
        """A backward call ended: did it add to the gradient that the last step used?"""
        gradient = self.parameter.grad
        if gradient is None:
            return
        if gradient is not self.object:
            self.cleaned = True
            self.object = gradient
            self.version = gradient._version
            return
        version = gradient._version
        grown = version - self.version
        self.version = version
        if grown == 0:
            return
        if grown > 1:
            self.cleaned = True  # zeroed in place, then added to
        elif not self.cleaned:
            self.kept = True

    def at_step(self) -> bool:
        """The optimizer is about to step; True if it uses a gradient that still holds one of before its last step."""
        return self.kept and not self.cleaned

    def after_step(self) -> None:
        """The optimizer has stepped: what is in the gradient now is used up."""
        gradient = self.parameter.grad
        self.object = gradient
        self.version = 0 if gradient is None else gradient._version
        self.kept = self.cleaned = False


def _is_readable(gradient: torch.Tensor) -> bool:
    return gradient.is_cpu and gradient.layout == torch.strided  # on a device it would have to be waited for
