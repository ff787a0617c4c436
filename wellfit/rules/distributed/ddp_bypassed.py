"""DST902: processes that should share gradients each step on their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from wellfit.finding import Finding, Fix
from wellfit.record import Record
from wellfit.rule import Family, Rule
from wellfit.rules.layering import first_backward
from wellfit.rules.replicas import SAME, Compared, apart, are_replicas, compared, ranks


class DdpBypassed(Rule):
    """Processes that began with the same weights step on gradients of their own.

    What it checks
    The processes of one run (world size above 1) hold the same model with the same initial weights, and more than half
    of the gradients at the optimizer's step differ between two ranks: each at `steps` steps or more, and at more than
    half of those that both measured. An all-reduce leaves the same numbers in every rank, to the last bit.

    Why it hurts
    Each process trains a model of its own on a part of the data; the other processes' work is lost, and what is saved
    by rank 0 has seen 1 / world size of the data.

    Cure
    Call the module that DistributedDataParallel gives back, not the one inside (`ddp(x)`, not `model(x)` or
    `ddp.module(x)`); build it after every cast, move or change of the parameters, as it hooks the parameters that are
    there at that time; leave no_sync() before the last backward of an accumulation.

    Fix safety
    Not safe: with shared gradients the batch is as many times larger as there are processes, and the learning rate may
    have to follow.

    When it is wrong
    Local SGD, federated learning and searches that give each process a run of its own step on own gradients on purpose.
    Processes whose initial weights differ, and shards of one model (FSDP, tensor parallelism), are not judged.

    References
    Li et al. 2020, "PyTorch Distributed: Experiences on Accelerating Data Parallel Training"; documentation of
    torch.nn.parallel.DistributedDataParallel.
    """

    code = "DST902"
    name = "ddp-bypassed"
    family: ClassVar[Family] = "distributed"
    summary = "processes do not share their gradients: each trains alone"
    reads = ("gradient", "parameter")
    consequences = ("ranks-diverge",)
    fixes = (Fix("Call the module that DistributedDataParallel returned", safe=False),)

    steps: int = 3  # steps in which both ranks measured the gradient and it differed

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
            torch.manual_seed(rank)
            for _ in range(30):
                x = torch.randn(32, 8)
                y = (x[:, 0] > 0).long()
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x), y)
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
            if not are_replicas(first, other):
                return
            tensors = compared(first, other, "gradient")
            differ = apart(tensors, self.steps)
            # A few may differ by design (experts of a mixture); all of them means that nothing is shared.
            if tensors and len(differ) > 0.5 * len(tensors):
                yield self._told(first, other, differ, len(tensors))
                return

    def _told(self, first: Record, other: Record, differ: list[Compared], seen: int) -> Finding:
        worst = max(differ, key=lambda one: float(one.gap.max()))
        size = first.process.get("world_size", 2)
        return self.finding(
            f"the gradients of ranks {first.rank} and {other.rank} differ ({len(differ)} of {seen} parameters, first "
            f"`{differ[0].name}`): nothing is averaged between the {size} processes, so each trains a model of its "
            "own; call the module that DistributedDataParallel returned, and wrap after casts and moves",
            severity="error", step=int(differ[0].step[differ[0].gap > SAME][self.steps - 1]), layer=differ[0].name,
            location=first_backward(first),
            evidence={"parameters": [one.name for one in differ[:20]], "of": seen, "gap": float(worst.gap.max()),
                      "steps": self.steps},
        )  # fmt: skip
