"""Small training scripts that differ in how they are fed; changes are written in at the places marked with #."""

from wellfit.overrides.draws import own_seed

LOADED = """
import itertools
import torch
from torch import nn
from torch.utils.data import DataLoader, RandomSampler, Subset, TensorDataset

torch.manual_seed(0)
x = torch.rand(60, 6) + 2
y = (x[:, 0] > x[:, 1]).long() + (x[:, 2] > 2.5).long()
train_set = TensorDataset(x[:40], y[:40])
model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.2), nn.BatchNorm1d(8), nn.Linear(8, 3))
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
loader = DataLoader(train_set, batch_size=10, shuffle=True)
test = DataLoader(TensorDataset(x[40:], y[40:]), batch_size=20)
print(len(loader), len(test))
# made
for epoch in range(3):
    model.train()
    for a, b in loader:
        # batch
        loss = nn.functional.cross_entropy(model(a), b)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(len(a), a.double().sum().item().hex(), loss.item().hex())
    model.eval()
    with torch.no_grad():
        for a, b in test:
            # tested
            print("test", len(a), nn.functional.cross_entropy(model(a), b).item().hex())
print("end", torch.rand(1).item())
"""
MAKE = "DataLoader(train_set, batch_size=10, shuffle=True)"
OWN = f"torch.Generator().manual_seed({own_seed(0)})"
# Without a DataLoader; the last batch is smaller, and the input an image or what else is put there.
BY_INDEX = """
import torch
from torch import nn

torch.manual_seed(0)
x = 3 * torch.rand(50, 2, 5, 5) + 1
y = torch.randint(3, (50,))
model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
# made
for epoch in range(2):
    for rows in torch.randperm(40).split(16):
        a, b = x[rows], y[rows]
        # batch
        loss = nn.functional.cross_entropy(model(a), b)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(loss.item().hex())
    with torch.no_grad():
        a = x[40:]
        # tested
        print("test", model(a).sum().item().hex())
print("end", torch.rand(1).item())
"""
