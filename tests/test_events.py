"""A plain step is as exact as a watched one: the same program's events, looked at always and as seldom as can be."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
from probed import Part, many, plain, probed, written

LOOPS = {
    "two optimizers in turn": """
        a, b = nn.Linear(4, 1), nn.Linear(4, 1)
        first, second = torch.optim.Adam(a.parameters(), 1e-3), torch.optim.SGD(b.parameters(), 1e-2)
        for step in range(300):
            x = torch.randn(8, 4)
            first.zero_grad()
            a(x).square().mean().backward()
            first.step()
            if step % 3 == 0:
                second.zero_grad()
                (b(x) - a(x).detach()).square().mean().backward()
                second.step()
    """,
    "accumulation, a schedule, a model's own zero_grad": """
        model = nn.Linear(4, 1)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 7, 0.9)
        for step in range(250):
            for part in range(1 + step % 3):
                model(torch.randn(8, 4)).square().mean().backward()
            optimizer.step()
            schedule.step()
            model.zero_grad() if step % 5 else optimizer.zero_grad()
    """,
    "evaluations, and losses in two places": """
        model = nn.Linear(4, 1)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for step in range(300):
            x = torch.randn(8, 4)
            optimizer.zero_grad()
            loss = F.mse_loss(model(x), x.sum(1, keepdim=True))
            if step % 2:
                loss.backward()
            else:
                torch.autograd.backward(loss * 2)
            optimizer.step()
            if step % 50 == 49:
                with torch.set_grad_enabled(step % 100 != 99):
                    F.mse_loss(model(x), x.sum(1, keepdim=True))
                model.eval()
                with torch.no_grad():
                    F.l1_loss(model(x), x.sum(1, keepdim=True))
                model.train()
    """,
    "an optimizer with closures comes late": """
        model = nn.Linear(4, 1)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        x = torch.randn(8, 4)
        def closure():
            optimizer.zero_grad()
            loss = (model(x) - 1).square().mean()
            loss.backward()
            return loss
        for step in range(220):
            if step == 150:
                optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=2)
            if step < 150:
                closure()
                optimizer.step()
            else:
                optimizer.step(closure)
    """,
    "a scaler that leaves out a step": """
        model = nn.Linear(4, 1)
        optimizer = torch.optim.SGD(model.parameters(), 0.01)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        for step in range(250):
            optimizer.zero_grad()
            loss = model(torch.randn(8, 4)).square().mean()
            scaler.scale(loss).backward()
            if step in (5, 120):
                model.weight.grad.fill_(float("inf"))
            scaler.step(optimizer)
            scaler.update()
    """,
    "clipping in every form": """
        from torch.nn.utils import clip_grad_norm_
        a, b = nn.Linear(4, 1), nn.Linear(4, 1)
        optimizer = torch.optim.SGD([*a.parameters(), *b.parameters()], 0.01)
        class Odd(torch.Tensor):
            pass
        for step in range(250):
            optimizer.zero_grad()
            x = torch.randn(8, 4) * (30 if step == 130 else 1)
            (a(x) + b(x)).square().mean().backward()
            for model in (a, b):
                nn.utils.clip_grad_norm_(model.parameters(), 1 if step % 2 else 2.0)
            if step % 7 == 0:
                clip_grad_norm_(parameters=a.parameters(), max_norm=torch.tensor(0.5), norm_type=1)
            clip_grad_norm_(max_norm=float("inf"), parameters=a.parameters(), norm_type=float("inf"))
            if step % 10 == 0:
                b.bias.grad.fill_(float("nan"))
                clip_grad_norm_(b.parameters(), 1.0)
                b.zero_grad()
            try:
                clip_grad_norm_(a.parameters())
            except TypeError:
                pass
            optimizer.step()
    """,
    "losses that are not one number, and a backward call that fails": """
        model = nn.Linear(4, 1)
        optimizer = torch.optim.SGD(model.parameters(), 0.01)
        for step in range(200):
            loss = model(torch.randn(8, 4)).square()
            optimizer.zero_grad()
            if step % 10 == 9:
                loss.backward(torch.ones_like(loss) / 8)
            else:
                loss.mean().backward()
            if step % 20 == 19:
                try:
                    loss.mean().backward()
                except RuntimeError:
                    pass
            optimizer.step()
    """,
}

SEEDED = {name: "torch.manual_seed(0)\n" + dedent(body) for name, body in LOOPS.items()}


def events(done: Part) -> dict[str, list[tuple[float, ...]]]:
    """All that the record says of every step, without times."""
    assert done.code == 0, done.err
    record = done.record
    patterns = record.patterns
    steps = record.steps
    found: dict[str, list[tuple[float, ...]]] = {
        "steps": [(s, a, patterns[b]) for s, a, b in zip(steps["step"], steps["a"], steps["b"], strict=True)]
    }
    found["left out"] = [(event["step"], event["count"]) for event in record.events("scaler")]
    for id, clip in record.clips.items():
        norms, limits = record.clipping(id)
        rows = zip(norms.step, norms.value, limits.value, strict=True)
        found[f"clipped at {clip.location}"] = [(int(s), repr(float(norm)), float(limit)) for s, norm, limit in rows]
    for name, curve in [
        *((f"loss {site}", record.loss(site)) for site in record.loss_sites()),
        *(
            (f"evaluated at {record.losses[loss].location}", record.evaluations(loss))
            for loss in record.evaluated_losses()
        ),
        *((f"lr {id}", record.hyper("lr", id)) for id in record.optimizers),
    ]:
        found[name] = [(int(s), float(v)) for s, v in zip(curve.step, curve.value, strict=True)]
    return found


@pytest.fixture(scope="module")
def always(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Part]:
    return many(tmp_path_factory.mktemp("loops"), SEEDED, every=1)


@pytest.fixture(scope="module")
def seldom(always: dict[str, Part], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Part]:
    # The same files again: the record names them.
    return many(next(iter(always.values())).script.parent, SEEDED, every=1_000_000)


@pytest.mark.parametrize("name", LOOPS)
def test_plain_steps_say_the_same_as_watched_ones(always: dict[str, Part], seldom: dict[str, Part], name: str) -> None:
    watched = events(always[name])
    assert len(seldom[name].record.watched_steps) <= 2
    assert events(seldom[name]) == watched
    assert len(watched["steps"]) >= 200


def test_the_norm_of_every_clipped_gradient_is_known(seldom: dict[str, Part]) -> None:
    record = seldom["clipping in every form"].record
    both, tensor, whole, spoilt = (record.clipping(id) for id in sorted(record.clips))
    assert both[0].step.tolist() == [step for step in range(250) for _ in "ab"]
    assert both[1].value[:4].tolist() == [2, 2, 1, 1]
    assert not len(tensor[0])  # its limit is a tensor
    assert whole[0].step.tolist() == list(range(250)) and np.isinf(whole[1].value).all()
    assert whole[0].value[130] > 10 * np.median(whole[0].value)
    assert spoilt[0].step.tolist() == list(range(0, 250, 10)) and np.isnan(spoilt[0].value).all()


def test_backward_called_at_the_top_of_a_program(tmp_path: Path) -> None:
    script = written(
        tmp_path,
        """
        w = torch.ones(3, requires_grad=True)
        optimizer = torch.optim.SGD([w], 0.01)
        for step in range(150):
            optimizer.zero_grad()
            torch.autograd.backward((w * w).sum())
            optimizer.step()
        print(w.sum().item())
        """,
    )
    done = probed([str(script)], tmp_path, every=1_000_000)
    assert done.err == ""
    assert done.out == plain([str(script)], tmp_path).stdout
    loss = done.record.loss()
    assert list(loss.step) == list(range(150))
    assert np.allclose(loss.value, 3 * 0.98 ** (2 * np.arange(150)))
