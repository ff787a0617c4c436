"""Less training data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wellfit.errors import WellfitError
from wellfit.overrides.data._loaders import which, why_left
from wellfit.overrides.draws import Draws
from wellfit.overrides.override import Override
from wellfit.overrides.parameters import number, whole
from wellfit.overrides.places import here_text

if TYPE_CHECKING:
    from wellfit.overrides.program import Program


@dataclass(kw_only=True, eq=False)
class LimitData(Override):
    """Less training data.

    What it changes: a DataLoader for training is given a fixed part of its dataset, drawn at random from the script's
    seed, the same in every epoch: round(share * n) of n items, at least one, or `items` of them. A `RandomSampler`
    draws from the part as it drew from the whole; where the script says how many in an epoch, it stays at that.

    When it helps: to see how the result hangs on the amount of data (where a tenth is as good, more data will not
    help), and to make a program that has too few data.

    Safety: not safe; the model sees less data.

    Where it does not apply: to batches that the script cuts itself, to datasets that are read as a stream, to loaders
    with a sampler or batch_sampler made for the whole dataset; unless `loaders:all` is given, to loaders that do not
    shuffle: those are mostly for tests.

    References: Hestness et al., Deep Learning Scaling is Predictable, Empirically (2017).
    """

    name = "limit-data"
    summary = "train on a fixed part of a DataLoader's dataset"
    example = "limit-data=0.1"
    safe = False
    misfit = "no DataLoader of the script gives numbered items to the training; data that it indexes itself stays"
    rank = 25

    share: float | None = number("share of the items that is kept", above=0, high=1, default=None)
    items: int | None = whole("items that are kept", default=None)
    loaders: str = which()

    _draws: Draws = field(default_factory=Draws, init=False)

    def check(self) -> None:
        """See `Override`."""
        if (self.share is None) == (self.items is None):
            raise WellfitError(
                "limit-data needs a share or a number of items, and not both: --override limit-data=0.1 or "
                "--override limit-data=items:100"
            )

    def loader(self, program: Program, arguments: dict[str, Any]) -> None:
        """See `Override`."""
        name = f"DataLoader{here_text()}"
        why = why_left(arguments, self.loaders, "its sampler was made for the whole dataset")
        if why:
            self.left_out(name, why)
            return
        self._limit(name, arguments)

    def _limit(self, name: str, arguments: dict[str, Any]) -> None:
        import torch
        from torch.utils.data import RandomSampler

        from wellfit.overrides.data._datasets import Part

        whole_size, batch = len(arguments["dataset"]), arguments["batch_size"]
        kept = self.items if self.items is not None else max(1, round(whole_size * (self.share or 0.0)))
        if kept >= whole_size:
            self.met(name, f"it has only {whole_size} items")
            return
        if arguments["drop_last"] and batch is not None and kept < batch:
            raise WellfitError(f"{name} drops incomplete batches, and {kept} items are fewer than its batch of {batch}")
        # Not `Draws.on`: a loader that is made anew in each epoch must get the same part.
        generator = torch.Generator().manual_seed(self._draws.seed)
        chosen = torch.randperm(whole_size, generator=generator)[:kept].sort().values.tolist()
        part = arguments["dataset"] = Part(arguments["dataset"], chosen)
        sampler = arguments["sampler"]
        if type(sampler) is RandomSampler:
            count = sampler._num_samples  # None if the script gave none
            arguments["sampler"] = RandomSampler(part, sampler.replacement, count, sampler.generator)
        else:
            arguments["sampler"] = None  # in order, as it was
        self.changed(f"{name}: {kept} of {whole_size} items")
