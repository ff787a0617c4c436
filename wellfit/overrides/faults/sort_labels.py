"""Training data sorted by class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wellfit.overrides.data._loaders import which, why_left
from wellfit.overrides.override import Override
from wellfit.overrides.places import here_text

if TYPE_CHECKING:
    from wellfit.overrides.program import Program


@dataclass(kw_only=True, eq=False)
class SortLabels(Override):
    """Training data sorted by class.

    What it changes: a DataLoader for training gives its items in the order of their labels, always the same, instead of
    shuffled. Labels are the last part of each item; all items are read once for them, but for a `TensorDataset`.

    When it helps: never; here to be found: batches of one class only, so that the model learns and forgets one after
    the other.

    Safety: not safe; a fault.

    Where it does not apply: to batches that the script cuts itself, to streams, to loaders with a sampler or
    batch_sampler of their own, to items that do not end in a whole number; unless `loaders:all` is given, to loaders
    that do not shuffle. `shuffle=on` acts after it and undoes it, as in a script that has this fault.

    References: Bengio, Practical Recommendations for Gradient-Based Training of Deep Architectures (2012), section 3.1.
    """

    name = "sort-labels"
    summary = "a DataLoader gives its items class by class instead of shuffled"
    example = "sort-labels"
    safe = False
    misfit = "no DataLoader shuffles items that end in a class number"
    rank = 20

    loaders: str = which()

    def loader(self, program: Program, arguments: dict[str, Any]) -> None:
        """See `Override`."""
        name = f"DataLoader{here_text()}"
        why = why_left(arguments, self.loaders, "its sampler decides the order")
        if why:
            self.left_out(name, why)
        else:
            self._sort(name, program, arguments)

    def _sort(self, name: str, program: Program, arguments: dict[str, Any]) -> None:
        from wellfit.overrides.data._datasets import LabelOrder

        labels = _labels(program, arguments["dataset"])
        if labels is None:
            self.left_out(name, "its items do not end in a whole number")
        elif len(set(labels)) < 2:
            self.left_out(name, "all its labels are the same")
        else:
            order = sorted(range(len(labels)), key=labels.__getitem__)
            arguments["sampler"], arguments["shuffle"] = LabelOrder(order), False
            self.changed(f"{name}: {len(labels)} items in the order of their {len(set(labels))} labels")


def _labels(program: Program, dataset: Any) -> list[int] | None:
    """The label of each item; None where there are none."""
    import torch
    from torch.utils.data import TensorDataset

    from wellfit.overrides.traceless import same_random_numbers

    if type(dataset) is TensorDataset:
        last = dataset.tensors[-1]
        return last.tolist() if len(dataset.tensors) > 1 and last.dim() == 1 and not _is_real(last) else None
    labels: list[int] = []
    try:
        with same_random_numbers(), program.randomness(), program.unseen(), torch.no_grad():
            for index in range(len(dataset)):
                item = dataset[index]
                label: Any = item[-1] if isinstance(item, (tuple, list)) and len(item) > 1 else None
                if not hasattr(label, "__index__") or (isinstance(label, torch.Tensor) and _is_real(label)):
                    return None
                labels.append(int(label))
    except (TypeError, ValueError):  # a tensor of several numbers
        return None
    return labels


def _is_real(tensor: Any) -> bool:
    return bool(tensor.is_floating_point())
