"""Shuffled or ordered training data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wellfit.overrides.data._loaders import is_stream
from wellfit.overrides.draws import Draws
from wellfit.overrides.override import Override
from wellfit.overrides.parameters import switch
from wellfit.overrides.places import here_text

if TYPE_CHECKING:
    from wellfit.overrides.program import Program


@dataclass(kw_only=True, eq=False)
class Shuffle(Override):
    """Shuffled or ordered training data.

    What it changes: the order in which DataLoaders give their items. On: a loader that goes through its data in order
    draws another order for each epoch in which gradients are taken; under `no_grad` it keeps the data's own order,
    because tests may count on it. Off: a loader that shuffles goes through its data in order.

    When it helps: on, where data lies sorted (by class, by time) and batches are all alike; the loss then has the
    period of an epoch. Off, to see the same batches in the same order in each epoch.

    Safety: safe; each item is still seen once in an epoch.

    Where it does not apply: to batches that the script cuts itself, to datasets that are read as a stream, to loaders
    with a sampler of their own. Off leaves the script's random numbers where a loader's shuffling would have moved
    them.

    References: Bengio, Practical Recommendations for Gradient-Based Training of Deep Architectures (2012), section 3.1.
    """

    name = "shuffle"
    summary = "draw another order of the training data in each epoch, or none"
    example = "shuffle=on"
    safe = True
    misfit = "no DataLoader of the script goes through its data in another way already; others cannot be changed"
    rank = 30

    on: bool = switch("whether the order is drawn anew in each epoch", default=True)

    _draws: Draws = field(default_factory=Draws, init=False)

    def loader(self, program: Program, arguments: dict[str, Any]) -> None:
        """See `Override`."""
        from torch.utils.data import RandomSampler, SequentialSampler

        from wellfit.overrides.data._datasets import LabelOrder, TrainingOrder

        name = f"DataLoader{here_text()}"
        sampler, dataset = arguments["sampler"], arguments["dataset"]
        ordered = not arguments["shuffle"] and (sampler is None or isinstance(sampler, (SequentialSampler, LabelOrder)))
        shuffled = arguments["shuffle"] or type(sampler) is RandomSampler
        if is_stream(dataset):
            self.left_out(name, "its dataset is read as a stream")
        elif arguments["batch_sampler"] is not None:
            self.left_out(name, "its batch_sampler decides the order")
        elif self.on == bool(shuffled):
            self.met(name, f"it {'shuffles' if self.on else 'is in order'} already")
        elif not (ordered if self.on else shuffled):
            self.left_out(name, f"its sampler ({type(sampler).__name__}) decides the order")
        elif self.on and not len(dataset):
            self.left_out(name, "it is empty")
        else:
            arguments["shuffle"] = False
            arguments["sampler"] = TrainingOrder(dataset, generator=self._draws.on()) if self.on else None
            what = "another order in each epoch, where gradients are taken" if self.on else "always in the data's order"
            self.changed(f"{name}: {what}")
