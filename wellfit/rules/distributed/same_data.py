"""DST903: processes that train on the same batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np

from wellfit.finding import Finding, Fix
from wellfit.record import Record
from wellfit.rule import Family, Rule
from wellfit.rules.layering import first_backward
from wellfit.rules.replicas import SAME, are_replicas, ranks


class SameData(Rule):
    """Processes that hold copies of one model are given the same batches.

    What it checks
    Two ranks with the same initial weights whose losses are equal in every step, over `steps` steps or more, and whose
    inputs (or targets) are equal wherever both were measured, while they change from step to step.

    Why it hurts
    The average of equal gradients is the same gradient: every process but one works for nothing, and an epoch sees each
    sample as often as there are processes.

    Cure
    Give the loader `DistributedSampler(dataset)` and call its `set_epoch(epoch)` before each epoch; where data is made
    or drawn at random, add the rank to the seed.

    Fix safety
    Not safe: the batch becomes as many times larger as there are processes, and the learning rate may have to follow.

    When it is wrong
    One batch for ever, to see whether it can be learned, is not named. Tensor and pipeline parallelism, where ranks
    share batches by design, hold unequal weights and are not judged.

    References
    Documentation of torch.utils.data.distributed.DistributedSampler; Goyal et al. 2017, "Accurate, Large Minibatch
    SGD".
    """

    code = "DST903"
    name = "same-data"
    family: ClassVar[Family] = "distributed"
    summary = "every process trains on the same batches"
    reads = ("input", "target", "loss")
    consequences = ()
    fixes = (Fix("Use a DistributedSampler, or add the rank to the seed", safe=False),)

    steps: int = 10  # steps with equal losses; two unequal batches have equal losses about once in 10^6

    @staticmethod
    def sick() -> None:
        import os

        import torch
        import torch.distributed as dist
        from torch import nn
        from torch.nn.parallel import DistributedDataParallel

        def train(rank):
            os.environ.update(MASTER_ADDR="127.0.0.1", GLOO_SOCKET_IFNAME="lo")
            store = dist.FileStore("ranks", 2)
            dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
            torch.manual_seed(0)
            model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
            ddp = DistributedDataParallel(model)
            optimizer = torch.optim.SGD(ddp.parameters(), lr=0.1)
            for _ in range(30):
                x = torch.randn(32, 8)
                y = (x[:, 0] > 0).long()
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(ddp(x), y)
                loss.backward()
                optimizer.step()
            dist.barrier()

        child = os.fork()
        train(0 if child else 1)
        if child:
            os.waitpid(child, 0)

    @staticmethod
    def healthy() -> None:
        import os

        import torch
        import torch.distributed as dist
        from torch import nn
        from torch.nn.parallel import DistributedDataParallel

        def train(rank):
            os.environ.update(MASTER_ADDR="127.0.0.1", GLOO_SOCKET_IFNAME="lo")
            store = dist.FileStore("ranks", 2)
            dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
            torch.manual_seed(0)
            model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
            ddp = DistributedDataParallel(model)
            optimizer = torch.optim.SGD(ddp.parameters(), lr=0.1)
            torch.manual_seed(rank)
            for _ in range(30):
                x = torch.randn(32, 8)
                y = (x[:, 0] > 0).long()
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(ddp(x), y)
                loss.backward()
                optimizer.step()
            dist.barrier()

        child = os.fork()
        train(0 if child else 1)
        if child:
            os.waitpid(child, 0)

    def check_together(self, records: Sequence[Record]) -> Iterator[Finding]:
        together = ranks(records)
        for other in together[1:]:
            first = together[0]
            if not are_replicas(first, other) or not self._same_losses(first, other):
                continue
            what = next((what for what in ("input", "target") if self._same_batches(first, other, what)), None)
            if what is None:
                continue
            loader = next(iter(first.loaders.values()), None)
            backward = first_backward(first)
            yield self.finding(
                f"ranks {first.rank} and {other.rank} are given the same batches: their {what}s and losses are equal "
                "in every step, so all processes but one work for nothing; use a DistributedSampler with set_epoch(), "
                "or add the rank to the seed of the data",
                severity="error", step=self.steps, layer=None,
                location=loader.location if loader is not None and loader.location is not None else backward,
                evidence={"steps": len(first.loss()), "world_size": int(first.process.get("world_size", 2))},
            )  # fmt: skip
            return

    def _same_losses(self, first: Record, other: Record) -> bool:
        one, two = first.loss(), other.loss()
        _, at_one, at_two = np.intersect1d(one.step, two.step, return_indices=True)
        a, b = one.value[at_one], two.value[at_two]
        known = np.isfinite(a) & np.isfinite(b)
        a, b = a[known], b[known]
        if len(a) < self.steps or len(np.unique(a)) < self.steps // 2:
            return False
        return bool(np.all(np.abs(a - b) <= SAME * np.abs(a)))

    def _same_batches(self, first: Record, other: Record, what: str) -> bool:
        for subject in first.subjects(what):
            one, two = first.series(what, subject), other.series(what, subject)
            _, at_one, at_two = np.intersect1d(one.step, two.step, return_indices=True)
            a, b = one.data[at_one, 1:4].astype(float), two.data[at_two, 1:4].astype(float)
            # Large inputs are sampled, each process in its own places: those cannot be compared.
            if len(a) < 3 or not np.isfinite(a).all() or not np.isfinite(b).all() or len(np.unique(a[:, 0])) < 2:
                continue
            if bool(np.all(np.abs(a - b) <= SAME * np.maximum(np.abs(a), 1e-12))):
                return True
        return False
