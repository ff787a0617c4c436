"""DST901: copies of one model that no longer have the same weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from wellfit.finding import Finding, Fix
from wellfit.record import Record
from wellfit.rule import Family, Rule
from wellfit.rules.replicas import SAME, apart, are_replicas, compared, ranks


class RanksDiverge(Rule):
    """Processes that began with the same weights have other ones now, though their gradients are averaged.

    What it checks
    The weights that two ranks measured in full at the same steps: whether one of them differs at `steps` of these or
    more, and at more than half of them. Copies that began alike and are given the same gradient stay alike to the last
    bit.

    Why it hurts
    The averaged gradient belongs to none of the copies any more, and rank 0 saves a model that the others did not
    train.

    Cure
    Let every rank do the same after backward: the same optimizer, learning rate, clipping and order of steps; change
    weights (a reset layer, a loaded checkpoint, noise) in all ranks or broadcast them; never step, clip or skip in rank
    0 only.

    Fix safety
    Not safe: the weights of all ranks but one are replaced.

    When it is wrong
    Local SGD lets copies part between two averages on purpose. Shards (FSDP, tensor parallelism) and processes with
    unequal initial weights are not judged.

    References
    Li et al. 2020, "PyTorch Distributed: Experiences on Accelerating Data Parallel Training", section 3.
    """

    code = "DST901"
    name = "ranks-diverge"
    family: ClassVar[Family] = "distributed"
    summary = "copies of one model have unequal weights"
    reads = ("parameter",)
    consequences = ()
    fixes = (Fix("Do the same in every rank after backward", safe=False),)

    steps: int = 3  # steps in which both ranks measured a weight and it differed

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
                loss = nn.functional.cross_entropy(ddp(x), y)
                loss.backward()
                if rank == 0:
                    nn.utils.clip_grad_norm_(model.parameters(), 0.05)
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
            tensors = compared(first, other, "parameter")
            differ = apart(tensors, self.steps)
            if not differ:
                continue
            known = first.parameters[differ[0].name]
            optimizer = first.optimizer_of(known)
            gap = max(float(one.gap.max()) for one in differ)
            yield self.finding(
                f"the weights of ranks {first.rank} and {other.rank} are no longer the same ({len(differ)} of "
                f"{len(tensors)} parameters, first `{differ[0].name}`, by up to {100 * gap:.2g} % of their size): the "
                "copies train apart; let every rank clip, step and load the same way",
                severity="error", step=int(differ[0].step[differ[0].gap > SAME][self.steps - 1]), layer=differ[0].name,
                location=optimizer.location if optimizer is not None else known.location,
                evidence={"parameters": [one.name for one in differ[:20]], "of": len(tensors), "gap": gap,
                          "steps": self.steps},
            )  # fmt: skip
            return
