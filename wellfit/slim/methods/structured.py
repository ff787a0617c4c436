"""Channels, units and heads cut out of a model, each cut made on a copy first and checked against the masked model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from wellfit.slim.changes import Unfit
from wellfit.slim.changes.cut import Cut
from wellfit.slim.measure.inputs import Inputs
from wellfit.slim.methods.checked import copied, copy_of, difference, outputs, result_of, scrambled, tolerance
from wellfit.slim.methods.choice import choose
from wellfit.slim.methods.coupled.groups import Coupling, Group, Indices, Place, coupling
from wellfit.slim.methods.importance import Scores, importance
from wellfit.slim.methods.masked import gone_of, masked_result, zero
from wellfit.slim.methods.settings import head_settings, proposals

Kept = Mapping[str, Sequence[int]]
"""By the name of a group: which of its channels are kept."""


@dataclass(frozen=True)
class Cuts:
    """What came of a wish to cut.

    Args:
        cut: all that can be cut, as one change; None if nothing can.
        kept: by group, the channels that are kept.
        skipped: by group, why it was left as it is.
    """

    cut: Cut | None
    kept: Mapping[str, tuple[int, ...]]
    skipped: Mapping[str, str]


def prune(
    model: nn.Module,
    inputs: Inputs,
    share: float,
    *,
    by: str = "magnitude",
    scope: str = "global",
    multiple: int = 1,
    width: bool = False,
) -> Cuts:
    """The least important channels of a model, as one checked cut.

    Args:
        model: is not changed; `apply` of the cut changes it.
        inputs: an example.
        share: of the channels to cut, of all groups together or of each, by `scope`; in 0..1.
        by: "magnitude", "scale", "taylor" (gradients must be there) or "output": see `importance`.
        scope: "global" or "layer".
        multiple: of each group as many channels are kept as make a multiple of this, where it has as many.
        width: also groups over which a norm goes (the width of a transformer): what is left there is another model, as
            the norm's statistics are those of fewer channels.

    Raises:
        Unfit: the model cannot be followed at all.
        WellfitError: an argument is out of range.
    """
    found = coupling(model, inputs)
    skipped = dict(found.refused)
    scores: dict[str, Scores] = {}
    for group in found.groups:
        if group.normed and not width:
            skipped[group.name] = "a norm or mean goes over its channels, so to cut some changes what the others become"
            continue
        try:
            scores[group.name] = importance(model, inputs, group, by)
        except Unfit as error:
            skipped[group.name] = str(error)
    cuts = checked_cuts(model, inputs, found, choose(scores, share, scope=scope, multiple=multiple))
    return Cuts(cuts.cut, cuts.kept, {**skipped, **cuts.skipped})


def checked_cut(model: nn.Module, inputs: Inputs, found: Coupling, kept: Kept) -> Cut:
    """The cut that keeps these channels, after it was made on copies and gave the outputs of the masked model.

    The copies are one with the model's weights and one with random weights instead: weights near zero would
    hide a wrong cut. Sizes that modules of the user's own keep as numbers follow where that mends the cut.

    Args:
        model: is not changed; `apply` of the result changes it.
        inputs: an example.
        found: the groups of this model, as it is.
        kept: by group, the channels that are kept, at least one; groups that are not named stay whole.

    Raises:
        Unfit: the cut model fails or gives other outputs, whatever is tried.
    """
    chosen = {found.group(name): np.unique(np.asarray(channels, dtype=np.int64)) for name, channels in kept.items()}
    gone = gone_of(chosen)
    for group, channels in chosen.items():
        if not channels.size or channels[0] < 0 or channels[-1] >= group.channels:
            raise Unfit(f"{group.name}: it has channels 0 to {group.channels - 1}, and at least one must be kept")
    slices = tuple((place.tensor, place.axis, _left(place, indices)) for place, indices in gone.items())
    if not slices:
        raise Unfit("nothing is to be cut")
    if empty := [name for name, _, left in slices if not left]:
        raise Unfit(f"nothing of {empty[0]} would be left")
    base = copied(model)
    cut = Cut(slices, head_settings(base, gone))
    given = inputs.to("cpu")
    random = scrambled(base)
    checks = [_Check(one, given, chosen, gone) for one in (random, base)]

    def wrong(tried: Cut) -> str:
        return next((problem for check in checks if (problem := check(tried))), "")

    if problem := wrong(cut):
        sized = (Cut(slices, (*cut.settings, *settings)) for settings in proposals(base, chosen, gone))
        mended = next((other for other in sized if not wrong(other)), None)
        if mended is None:
            raise Unfit(problem)
        cut = mended
    _try_training(random, cut, given)
    return cut


def checked_cuts(model: nn.Module, inputs: Inputs, found: Coupling, kept: Kept) -> Cuts:
    """All groups at once if that is right, else one group after the other, leaving out those that cannot be cut.

    Args:
        model: is not changed.
        inputs: an example.
        found: the groups of this model, as it is.
        kept: by group, the channels that are kept.
    """
    wanted = {name: tuple(sorted({int(channel) for channel in channels})) for name, channels in kept.items()}
    wanted = {name: channels for name, channels in wanted.items() if len(channels) < found.group(name).channels}
    if not wanted:
        return Cuts(None, {}, {})
    try:
        return Cuts(checked_cut(model, inputs, found, wanted), wanted, {})
    except Unfit as error:
        if len(wanted) == 1:
            return Cuts(None, {}, {next(iter(wanted)): str(error)})
    cut: Cut | None = None
    taken: dict[str, tuple[int, ...]] = {}
    skipped: dict[str, str] = {}
    for name, channels in wanted.items():
        try:
            cut = checked_cut(model, inputs, found, {**taken, name: channels})
            taken[name] = channels
        except Unfit as error:
            skipped[name] = str(error)
    return Cuts(cut, taken, skipped)


class _Check:
    """Holds cuts of a model against the model with those channels masked."""

    def __init__(
        self, base: nn.Module, inputs: Inputs, chosen: Mapping[Group, Indices], gone: Mapping[Place, Indices]
    ) -> None:
        self._base, self._inputs = base, inputs
        masked = copy_of(base)
        zero(masked, gone)
        what = "the masked model"
        self._expected = result_of(lambda: masked_result(masked, inputs.copied(), chosen), what)

    def __call__(self, cut: Cut) -> str:
        """What is wrong with the cut; empty if nothing is."""
        tried = copy_of(self._base)
        try:
            cut.apply(tried)
            found = outputs(tried, self._inputs, "the cut model")
        except Unfit as error:
            return str(error)
        if (far := difference(self._expected, found)) <= tolerance(found):
            return ""
        return f"the cut model's outputs differ from those of the masked model, by {far:.2g} of the largest"


def _left(place: Place, gone: Indices) -> tuple[int, ...]:
    return tuple(int(index) for index in np.setdiff1d(np.arange(place.size), gone))


def _try_training(model: nn.Module, cut: Cut, inputs: Inputs) -> None:
    """A model that runs in training mode must do so after the cut.

    Raises:
        Unfit: it fails then.
    """
    whole = copy_of(model).train()
    try:
        outputs(whole, inputs, "the model")
    except Unfit:
        return
    tried = copy_of(model)
    cut.apply(tried)
    outputs(tried.train(), inputs, "the cut model in training mode")
