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


def why_left(arguments: dict[str, Any], loaders: str, sampler_says: str) -> str:
    """Why a loader that is about to be made can have no other items, nor another order of them; "" if it can.

    Args:
        loaders: the value of `which`.
        sampler_says: what stands against it where the loader has a sampler of its own.
    """
    from torch.utils.data import RandomSampler, SequentialSampler

    if loaders == "training" and not arguments_train(arguments):
        return FOR_TESTS
    if is_stream(arguments["dataset"]):
        return "its dataset is read as a stream"
    plain = arguments["sampler"] is None or type(arguments["sampler"]) in (RandomSampler, SequentialSampler)
    return "" if plain and arguments["batch_sampler"] is None else sampler_says


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
