"""Larger or smaller batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wellfit.errors import WellfitError
from wellfit.overrides.data._loaders import FOR_TESTS, arguments_train, is_stream, which
from wellfit.overrides.override import Override
from wellfit.overrides.parameters import whole
from wellfit.overrides.places import here_text

if TYPE_CHECKING:
    from wellfit.overrides.program import Program


@dataclass(kw_only=True, eq=False)
class BatchSize(Override):
    """Larger or smaller batches.

    What it changes: the `batch_size` of the DataLoaders for training when they are made, and with it their length. The
    learning rate stays; the rule of thumb for another batch size is lr * new / old (`lr=scale:...`).

    When it helps: smaller batches where the memory is full or where the noise of the gradient helps (too few steps);
    larger ones where the loss jumps from step to step.

    Safety: safe; the program means the same. The gradient of a batch of B has a variance of 1 / B of one item's.

    Where it does not apply: to batches that the script cuts itself (`randperm(n).split(32)`, indexing), to loaders with
    a `batch_sampler`, to loaders whose dataset makes the batches, and, unless `loaders:all` is given, to loaders that
    do not shuffle: those are mostly for tests.

    References: Goyal et al., Accurate, Large Minibatch SGD (2017); Keskar et al., On Large-Batch Training (2017).
    """

    name = "batch-size"
    summary = "another batch size for the DataLoaders that feed the training"
    example = "batch-size=64"
    safe = True
    misfit = "no DataLoader of the script makes batches for training; batches that it cuts itself stay as they are"
    rank = 40

    size: int = whole("items in a batch")
    loaders: str = which()

    def loader(self, program: Program, arguments: dict[str, Any]) -> None:
        """See `Override`."""
        name = f"DataLoader{here_text()}"
        before = arguments["batch_size"]
        if self.loaders == "training" and not arguments_train(arguments):
            self.left_out(name, FOR_TESTS)
        elif arguments["batch_sampler"] is not None:
            self.left_out(name, "its batch_sampler makes the batches")
        elif before is None:
            self.left_out(name, "its dataset makes the batches")
        elif before == self.size:
            self.met(name, f"its batches have {self.size} items already")
        else:
            self._refuse_empty(name, arguments)
            arguments["batch_size"] = self.size
            self.changed(f"{name}: batch size {before} -> {self.size}")

    def _refuse_empty(self, name: str, arguments: dict[str, Any]) -> None:
        """A loader that drops incomplete batches would have none at all."""
        if arguments["drop_last"] and not is_stream(arguments["dataset"]) and len(arguments["dataset"]) < self.size:
            raise WellfitError(
                f"{name} drops incomplete batches and has only {len(arguments['dataset'])} items, fewer than a batch"
            )
