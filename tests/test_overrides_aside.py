"""What short runs set to overwrite nothing of the user's, and to be alike: save-aside, and seed with keep."""

from __future__ import annotations

from pathlib import Path

from forked import Forks
from overridden import Run

SAVING = """
import os, shutil
from pathlib import Path
import torch
from torch import nn
model = nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
Path("best.pt").write_text("precious")
Path("old.pt").write_text("old")
for step in range(3):
    optimizer.zero_grad(); model(torch.ones(4, 2)).sum().backward(); optimizer.step()
    torch.save({"step": step}, Path("best.pt"))
    torch.save(step, "part.tmp")
    os.replace("part.tmp", "old.pt")
print(torch.load("best.pt")["step"], torch.load("old.pt"), os.path.exists("part.tmp"), os.path.isfile("old.pt"))
torch.save(7, "made/up.pt")
shutil.copy("made/up.pt", "copy.pt")
print(torch.load("copy.pt"), os.path.getsize("made/up.pt") > 0)
os.remove("made/up.pt")
print(os.path.exists("made/up.pt"))
with open("own.pt", "wb") as file:
    torch.save(1, file)
print(torch.load("own.pt"), Path("best.pt").read_text(), Path("old.pt").read_text(), sorted(os.listdir("saved")))
"""


def test_what_is_saved_lies_aside_and_is_found_there(run: Run) -> None:
    ran = run(SAVING, "save-aside")
    assert ran.code == 0, ran.err
    assert ran.lines == [
        "2 2 False True",
        "7 True",
        "False",
        "1 precious old ['0-best.pt', '1-part.tmp', '2-part.tmp', '3-part.tmp']",
    ]
    assert ran.record is not None
    assert "best.pt is saved in the run's folder" in ran.record.overrides[0].changed


def test_a_script_that_saves_nothing_is_not_refused(run: Run) -> None:
    script = "\n".join(SAVING.splitlines()[:12]).replace('Path("best.pt").write_text("precious")', "")
    ran = run(script, "save-aside")
    assert ran.code == 0, ran.err


SEEDED = """
import random
import torch
from torch import nn
SEED
model = nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
model(torch.ones(4, 2)).sum().backward(); optimizer.step()
print(torch.rand(1).item(), random.random(), model.weight.tolist())
"""


def test_seeds_are_kept_where_the_script_has_them_and_given_where_not(forks: Forks, run: Run, tmp_path: Path) -> None:
    given = SEEDED.replace("SEED", "torch.manual_seed(5); random.seed(5)")
    assert run(given, "seed=0,keep:on").lines == forks.plain(tmp_path, given)
    left = SEEDED.replace("SEED", "")
    first, second, other = (run(left, f"seed={seed},keep:on").lines for seed in (0, 0, 1))
    assert first == second != other
