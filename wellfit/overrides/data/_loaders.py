"""Which DataLoaders feed the training, as far as can be told when they are made."""

from __future__ import annotations

from typing import Any

from wellfit.overrides.parameters import choice

FOR_TESTS = "it does not shuffle, as loaders for tests do not (loaders:all takes it too)"


def which() -> Any:
    """The parameter that says which loaders are meant."""
    return choice(
        "training: the loaders that shuffle, have a sampler of their own or read a stream; all: every one",
        ("training", "all"),
        default="training",
    )


def is_stream(dataset: Any) -> bool:
    """Whether a dataset is read from beginning to end, without numbers for its items."""
    from torch.utils.data import IterableDataset

    return isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__")


def arguments_train(arguments: dict[str, Any]) -> bool:
    """Whether a loader that is about to be made is for training: its items come in an order of their own."""
    from torch.utils.data import SequentialSampler

    sampler = arguments["sampler"]
    return bool(
        arguments["shuffle"]
        or (sampler is not None and not isinstance(sampler, SequentialSampler))
        or arguments["batch_sampler"] is not None
        or is_stream(arguments["dataset"])
    )


def loader_trains(loader: Any) -> bool:
    """The same of a loader that is there."""
    from torch.utils.data import BatchSampler, SequentialSampler

    own_batches = loader.batch_sampler is not None and type(loader.batch_sampler) is not BatchSampler
    return own_batches or not isinstance(loader.sampler, SequentialSampler)
