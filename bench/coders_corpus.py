"""The corpus of `bench/coders.py`: weights of four small networks, trained, pruned and shared for real.

Everything comes from what is installed: the digits and the descriptions of data sets that scikit-learn brings. Networks
train for some seconds each from fixed seeds while the smallest weights are cut on a cubic schedule; then each layer's
weights are shared (k-means from a linear start) by 16 or 32 values besides zero. `python bench/coders_corpus.py` makes
the corpus anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import sklearn.datasets
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

CACHE = Path(__file__).parent.parent / "build" / "coders_corpus.npz"

DENSE = "dense"


class Part(NamedTuple):
    """A tensor as the coders get it: 0 is a pruned weight, the others are values by size."""

    name: str
    symbols: NDArray[np.uint16]
    alphabet: int
    shape: tuple[int, ...]


class Recipe(NamedTuple):
    """A network and how it is made slim."""

    name: str
    model: nn.Module
    batches: Callable[[], Iterator[tuple[Tensor, Tensor]]]
    steps: int
    cut: float  # share of weights that end as zeros
    values: int  # shared values besides zero


def digits() -> tuple[Tensor, Tensor]:
    """Handwritten digits as images of 28x28, the size that LeNets take."""
    images, labels = sklearn.datasets.load_digits(return_X_y=True)
    small = torch.tensor(images / 16.0, dtype=torch.float32).reshape(-1, 1, 8, 8)
    images = functional.pad(functional.interpolate(small, size=(20, 20), mode="bilinear"), (4, 4, 4, 4))
    return images, torch.tensor(labels)


def text() -> Tensor:
    """Running English: the descriptions of scikit-learn's data sets, as numbers of characters."""
    names = ("iris", "wine", "breast_cancer", "digits", "diabetes", "linnerud")
    running = "\n".join(getattr(sklearn.datasets, f"load_{name}")().DESCR for name in names).lower()
    letters = {letter: index for index, letter in enumerate(sorted(set(running)))}
    return torch.tensor([letters[letter] for letter in running])


def image_batches() -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of digits moved by up to three pixels."""
    images, labels = digits()
    while True:
        chosen = torch.randint(len(images), (64,))
        shift = torch.randint(-3, 4, (2,)).tolist()
        yield images[chosen].roll(shift, (2, 3)), labels[chosen]


def text_batches() -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of 48 characters, and each one's successor."""
    running = text()
    while True:
        rows = torch.randint(len(running) - 49, (32, 1)) + torch.arange(49)
        yield running[rows[:, :-1]], running[rows[:, 1:]].reshape(-1)


class Recurrent(nn.Module):
    """Predicts the next character with an LSTM."""

    def __init__(self, letters: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(letters, 48)
        self.lstm = nn.LSTM(48, 160, batch_first=True)
        self.head = nn.Linear(160, letters)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(self.embed(x))[0]).flatten(0, 1)


class Transformer(nn.Module):
    """Predicts the next character with two blocks of attention."""

    def __init__(self, letters: int) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(letters, 96), nn.Embedding(48, 96)
        block = nn.TransformerEncoderLayer(96, 4, 384, 0.0, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(block, 2, enable_nested_tensor=False)
        self.head = nn.Linear(96, letters)

    def forward(self, x: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        return self.head(self.blocks(self.embed(x) + self.place.weight, mask, is_causal=True)).flatten(0, 1)


def recipes() -> Iterator[Recipe]:
    """The networks, each from its own seed."""
    torch.manual_seed(1)
    mlp = nn.Sequential(
        nn.Flatten(), nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)
    )
    yield Recipe("mlp", mlp, image_batches, 900, 0.95, 16)
    torch.manual_seed(2)
    features = [nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2), nn.Flatten()]
    conv = nn.Sequential(*features, nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10))
    yield Recipe("conv", conv, image_batches, 400, 0.96, 16)
    letters = int(text().max()) + 1
    torch.manual_seed(3)
    yield Recipe("lstm", Recurrent(letters), text_batches, 500, 0.85, 16)
    torch.manual_seed(4)
    yield Recipe("transformer", Transformer(letters), text_batches, 500, 0.8, 32)


def trained(recipe: Recipe, dense: list[NDArray[np.float32]]) -> Iterator[tuple[str, Tensor]]:
    """Train while more and more of the smallest weights are set to zero; gives all weights of matrices at the end.

    What they were before the first cut is appended to `dense`.
    """
    weights = {name: weight for name, weight in recipe.model.named_parameters() if weight.dim() > 1}
    optimizer = torch.optim.Adam(recipe.model.parameters(), 2e-3)
    kept = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()}
    for step, (inputs, targets) in zip(range(recipe.steps), recipe.batches()):
        optimizer.zero_grad()
        loss = functional.cross_entropy(recipe.model(inputs), targets)
        loss.backward()
        optimizer.step()
        done = min(1.0, max(0.0, (step / recipe.steps - 0.2) / 0.5))
        with torch.no_grad():
            if not done:
                whole = [weight.flatten().clone() for weight in weights.values()]
            if step % 20 == 0 and done:
                share = recipe.cut * (1 - (1 - done) ** 3)
                sizes = torch.cat(
                    [weight.abs().flatten() / weight.square().mean().sqrt() for weight in weights.values()]
                )
                limit = sizes.kthvalue(int(share * len(sizes))).values
                kept = {name: w.abs() > limit * w.square().mean().sqrt() for name, w in weights.items()}
            for name, weight in weights.items():
                weight.mul_(kept[name])
    dense.append(torch.cat(whole).numpy())
    print(f"{recipe.name}: loss {loss.item():.3f}")
    for name, weight in weights.items():
        yield f"{recipe.name} {name}", weight.detach()


def shared(weight: NDArray[np.float32], values: int) -> tuple[NDArray[np.uint16], int]:
    """Symbols of a tensor's weights after k-means in one dimension; empty clusters are left out."""
    flat = weight.reshape(-1)
    alive = flat[flat != 0].astype(np.float64)
    centres = np.linspace(alive.min(), alive.max(), values)
    for _ in range(30):
        nearest = np.searchsorted((centres[1:] + centres[:-1]) / 2, alive)
        counts = np.bincount(nearest, minlength=len(centres))
        centres = (np.bincount(nearest, alive, len(centres)) / np.maximum(counts, 1))[counts > 0]
    symbols = np.zeros(len(flat), np.uint16)
    symbols[flat != 0] = 1 + np.searchsorted((centres[1:] + centres[:-1]) / 2, alive)
    return symbols, len(centres) + 1


def make() -> None:
    """Train everything and write the cache."""
    arrays: dict[str, NDArray[np.generic]] = {}
    whole: list[NDArray[np.float32]] = []
    for recipe in recipes():
        for name, weight in trained(recipe, whole):
            if weight.count_nonzero() > 50:
                symbols, alphabet = shared(weight.numpy(), recipe.values)
                arrays[f"{name} {alphabet}"] = symbols.reshape(tuple(weight.shape)).astype(np.uint8)
    CACHE.parent.mkdir(exist_ok=True)
    np.savez_compressed(CACHE, **arrays, **{DENSE: np.concatenate(whole)})


def corpus() -> list[Part]:
    """All tensors; made first where they are not there yet."""
    if not CACHE.exists():
        make()
    parts = []
    with np.load(CACHE) as arrays:
        for key, array in arrays.items():
            if key == DENSE:
                continue
            name, _, alphabet = key.rpartition(" ")
            parts.append(Part(name, array.reshape(-1).astype(np.uint16), int(alphabet), array.shape))
    return parts


def dense() -> NDArray[np.float32]:
    """All weights as they were before the first cut, one network after the other."""
    corpus()
    with np.load(CACHE) as arrays:
        return arrays[DENSE]


if __name__ == "__main__":
    torch.set_num_threads(1)
    make()
