"""DAT112: the same random numbers are drawn again and again."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import lru_cache
from itertools import chain
from typing import ClassVar, NamedTuple

from wellfit.finding import Finding, Fix, Location
from wellfit.record import Loader, Record
from wellfit.rule import Family, Rule
from wellfit.source import Source, called, main_source, source_of

_GENERATORS = {"default_rng", "RandomState", "Random", "Generator"}
_SEEDS = {"seed", "manual_seed", "manual_seed_all", "seed_everything", "set_seed"}
_GLOBAL = {
    "torch",
    "torch.cuda",
    "cuda",
    "torch.random",
    "np.random",
    "numpy.random",
    "random",
}  # whose seeds are meant
_DRAWING = ("__getitem__", "__iter__")
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


class _Draws(NamedTuple):
    """Where random numbers are made the same.

    Args:
        line: of the file.
        what: the first half of the message.
        cure: the second.
    """

    line: int
    what: str
    cure: str


class RepeatedData(Rule):
    """Random numbers begin anew at each sample, step, worker or epoch, so the same ones are drawn again.

    What it checks
        The program's text, and the loaders that it ran. (1) A data set that makes a generator of random numbers in its
        constructor and draws from it, read by worker processes: each of them has a copy in the same state, in each
        epoch again. (2) A worker_init_fn that gives each of several workers the same number as seed. (3) A seed that is
        a number in the program, set where samples are made, or in the innermost loop around backward; under an
        `if` it is taken to be meant.

    Why it hurts
        Augmentation, noise, dropout masks or the order of the data repeat themselves, so the model sees far fewer
        different samples than it seems, and learns the noise.

    Cure
        Draw from the global generators of torch, numpy or random, which a DataLoader seeds anew in each worker and
        epoch, and set seeds once, before training.

    Fix safety
        Unsafe: other random numbers are drawn than before, so results differ in detail.

    When it is wrong
        Noise that shall be the same in each epoch: make it from the sample's index then, which is not told.

    References
        PyTorch documentation, "My data loader workers return identical random numbers".
    """

    code = "DAT112"
    name = "repeated-data"
    family: ClassVar[Family] = "data"
    summary = "random numbers begin anew, so the same ones are drawn again"
    reads = ("loader",)
    consequences = ("constant-input", "overfit", "plateau")
    fixes = (Fix("Draw from the global generators, and seed them once before training"),)

    steps: int = 3  # of training

    @staticmethod
    def sick() -> None:
        import numpy as np
        import torch
        from torch import nn
        from torch.utils.data import DataLoader, Dataset

        class Noisy(Dataset[object]):
            def __init__(self):
                self.random = np.random.default_rng(0)

            def __len__(self):
                return 128

            def __getitem__(self, index):
                x = self.random.normal(size=8).astype("float32")
                return x, int(x[0] > 0)

        torch.manual_seed(0)
        loader = DataLoader(Noisy(), batch_size=16, num_workers=2)
        model = nn.Linear(8, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _epoch in range(3):
            for x, y in loader:
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x), y)
                loss.backward()
                optimizer.step()

    @staticmethod
    def healthy() -> None:
        import numpy as np
        import torch
        from torch import nn
        from torch.utils.data import DataLoader, Dataset

        class Noisy(Dataset[object]):
            def __len__(self):
                return 128

            def __getitem__(self, index):
                x = np.random.normal(size=8).astype("float32")
                return x, int(x[0] > 0)

        torch.manual_seed(0)
        loader = DataLoader(Noisy(), batch_size=16, num_workers=2)
        model = nn.Linear(8, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _epoch in range(3):
            for x, y in loader:
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x), y)
                loss.backward()
                optimizer.step()

    def check(self, record: Record) -> Iterator[Finding]:
        if record.step_count < self.steps:
            return
        made = tuple(one.location for one in record.optimizers.values() if one.location is not None)
        for source in _sources(record):
            loaders = tuple(one for one in record.loaders.values() if _is_in(one, source))
            draws = _first_draws(source, loaders, tuple(place.line for place in made if place.file == source.file))
            if draws is not None:
                yield self.finding(
                    f"{draws.what}, so the same random numbers are drawn again and again; {draws.cure}",
                    severity="error", step=0, location=Location(source.file, draws.line),
                    evidence={"workers": max((one.num_workers for one in loaders), default=0)},
                )  # fmt: skip
                return


@lru_cache(maxsize=16)
def _first_draws(source: Source, loaders: tuple[Loader, ...], optimizers: tuple[int, ...]) -> _Draws | None:
    """The first place that makes random numbers the same; kept, for a text is the same at each look.

    Args:
        loaders: made in this file.
        optimizers: lines of this file at which optimizers are made.
    """
    found = chain(_kept_generators(source, loaders), _seeded_workers(source, loaders), _seeds(source, optimizers))
    return next(found, None)


def _sources(record: Record) -> list[Source]:
    """The program, and the files in which its loaders are made."""
    found = {source.file: source for source in [main_source(record)] if source is not None}
    for loader in record.loaders.values():
        source = source_of(loader.location.file) if loader.location is not None else None
        if source is not None:
            found.setdefault(source.file, source)
    return list(found.values())


def _is_in(loader: Loader, source: Source) -> bool:
    return loader.location is not None and loader.location.file == source.file


def _loader_calls(source: Source, loaders: tuple[Loader, ...], workers: int) -> Iterator[tuple[ast.Call, Loader]]:
    """The calls that made loaders of at least so many workers."""
    for loader in loaders:
        line = loader.location.line if loader.location is not None else 0
        for call in source.calls(["DataLoader"]):
            if loader.num_workers >= workers and call.lineno <= line <= (call.end_lineno or call.lineno):
                yield call, loader


def _kept_generators(source: Source, loaders: tuple[Loader, ...]) -> Iterator[_Draws]:
    """Data sets that make a generator in their constructor and draw from it in workers."""
    read = list(_loader_calls(source, loaders, workers=1))
    classes = [one for one in source.nodes(ast.ClassDef) if _is_data_set(one)]
    for one in classes:
        init = _method(one, "__init__")
        for kept in source.nodes(ast.Assign) if init is not None else ():
            target = kept.targets[0]
            if not _within(kept, init) or not isinstance(target, ast.Attribute) or not _is_generator(kept.value):
                continue
            used = [
                node
                for node in source.nodes(ast.Attribute)
                if ast.unparse(node) == ast.unparse(target) and any(_within(node, part) for part in _drawing(one))
            ]
            workers = [loader.num_workers for call, loader in read if _reads(source, call, one, classes)]
            if used and workers:
                yield _Draws(
                    kept.lineno,
                    f"`{one.name}` draws from a generator that its constructor made, and each of {max(workers)} worker "
                    "processes has a copy of it in the same state, in each epoch anew",
                    "draw from numpy's or torch's global generator, which a DataLoader seeds in each worker",
                )


def _reads(source: Source, call: ast.Call, data: ast.ClassDef, classes: list[ast.ClassDef]) -> bool:
    """Whether a loader is of this data set, and nothing seeds its workers."""
    words = {word.arg: word.value for word in call.keywords}
    if "worker_init_fn" in words:
        return False
    given = call.args[0] if call.args else words.get("dataset")
    made = [given, *(made.value for made in source.made(given.id))] if isinstance(given, ast.Name) else [given]
    names = {called(one) for one in made if isinstance(one, ast.Call)}
    return data.name in names or (len(classes) == 1 and not names)


def _seeded_workers(source: Source, loaders: tuple[Loader, ...]) -> Iterator[_Draws]:
    """A worker_init_fn that gives all workers one seed."""
    for call, loader in _loader_calls(source, loaders, workers=2):
        given = next((word.value for word in call.keywords if word.arg == "worker_init_fn"), None)
        if isinstance(given, ast.Name):
            functions = [one for one in source.nodes(ast.FunctionDef) if one.name == given.id]
        else:
            functions = []
        maker = given if isinstance(given, ast.Lambda) else functions[0] if len(functions) == 1 else None
        for seed in source.calls(_SEEDS) if maker is not None else ():
            if _within(seed, maker) and _is_constant(seed):
                yield _Draws(
                    seed.lineno,
                    f"worker_init_fn gives each of {loader.num_workers} workers the same seed",
                    "leave it out: a DataLoader seeds numpy, random and torch in each worker; or add the worker's id",
                )


def _seeds(source: Source, optimizers: tuple[int, ...]) -> Iterator[_Draws]:
    """Seeds that are numbers in the program, where samples are made or steps are taken."""
    once = "set the seed once, before training"
    classes = [one for one in source.nodes(ast.ClassDef) if _is_data_set(one)]
    methods = [found for one in classes for name in _DRAWING if (found := _method(one, name))]
    loops = [  # one that makes an optimizer is a loop over trials, each of which begins with the same seed
        loop
        for loop in _innermost_around_backward(source)
        if not any(loop.lineno <= line <= (loop.end_lineno or 0) for line in optimizers)
    ]
    for seed in source.calls(_SEEDS):
        if not _is_constant(seed) or any(_within(seed, branch) for branch in source.nodes(ast.If)):
            continue
        method = next((one for one in methods if _within(seed, one)), None)
        if method is not None:
            yield _Draws(seed.lineno, f"the seed is set anew in {method.name}, for each sample", once)
        elif any(_within(seed, loop) and not _in_function_of(source, seed, loop) for loop in loops):
            yield _Draws(seed.lineno, "the seed is set anew in each step of training", once)


def _innermost_around_backward(source: Source) -> list[ast.For | ast.While]:
    """The loops that hold a call of backward in no loop of their own."""
    loops: list[ast.For | ast.While] = [*source.nodes(ast.For), *source.nodes(ast.While)]
    found = []
    for call in source.calls(["backward"]):
        around = [loop for loop in loops if _within(call, loop)]
        if around:
            found.append(max(around, key=lambda loop: (loop.lineno, loop.col_offset)))
    return found


def _in_function_of(source: Source, node: ast.AST, loop: ast.AST) -> bool:
    """Whether a node in a loop stands in a function that is only defined there."""
    return any(_within(one, loop) and _within(node, one) for kind in _FUNCTIONS for one in source.nodes(kind))


def _is_generator(value: ast.expr) -> bool:
    """Whether a generator of random numbers is made, also where it is seeded at once."""
    while isinstance(value, ast.Call):
        if called(value) in _GENERATORS:
            return True
        if not isinstance(value.func, ast.Attribute):
            return False
        value = value.func.value
    return False


def _drawing(one: ast.ClassDef) -> list[ast.FunctionDef]:
    """The methods that run when a sample is made: those that give samples, and all that they call."""
    methods = {node.name: node for node in one.body if isinstance(node, ast.FunctionDef)}
    reached: list[str] = []
    waiting = [name for name in _DRAWING if name in methods]
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.append(name)
            used = [node.attr for node in ast.walk(methods[name]) if isinstance(node, ast.Attribute)]
            waiting += [other for other in used if other in methods and other != "__init__"]
    return [methods[name] for name in reached]


def _is_data_set(one: ast.ClassDef) -> bool:
    """Whether a class gives samples; a sampler, which gives their places, is not read by workers."""
    bases = [ast.unparse(base) for base in one.bases]
    return any(_method(one, name) for name in _DRAWING) and not any("Sampler" in base for base in bases)


def _is_constant(call: ast.Call) -> bool:
    """Whether a seed of a global generator is a number, and nothing that may change."""
    if isinstance(call.func, ast.Attribute) and ast.unparse(call.func.value) not in _GLOBAL:
        return False
    return len(call.args) == 1 and isinstance(call.args[0], ast.Constant) and isinstance(call.args[0].value, int)


def _method(one: ast.ClassDef, name: str) -> ast.FunctionDef | None:
    return next((node for node in one.body if isinstance(node, ast.FunctionDef) and node.name == name), None)


def _within(node: ast.AST, outer: ast.AST | None) -> bool:
    """Whether a node of the same file lies in another one."""
    if outer is None:
        return False
    begin, end = (outer.lineno, outer.col_offset), (outer.end_lineno or 0, outer.end_col_offset or 0)  # type: ignore[attr-defined]
    return begin <= (node.lineno, node.col_offset) < end  # type: ignore[attr-defined]
