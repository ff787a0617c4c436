"""Boosting with small networks: each one learns what all before it left over.

    wellfit run examples/boosting.py

Begin with the mean. Let a small network fit the residuals, add a part of what it says to the prediction, compute the
residuals anew, and take a fresh network. For squared error the residual is the negative gradient of the loss in the
space of functions, hence "gradient boosting". The part that is added (the shrinkage) keeps any one network from
mattering much.
(Friedman 2001, "Greedy function approximation: a gradient boosting machine"; with networks: Schwenk and Bengio 2000.)
It learns how a diabetes patient fares a year later; with WELLFIT_DATA set, what houses cost.

R2 is the share of the test targets' variance that is explained: 0 is the mean, 1 is perfect.

Reaches: test R2 0.423 in 9 s.
"""

import os

import torch
from torch import nn

torch.manual_seed(0)

if "WELLFIT_DATA" in os.environ:
    import numpy as np

    table = torch.tensor(np.loadtxt(os.path.join(os.environ["WELLFIT_DATA"], "housing.csv"), delimiter=",")).float()
    x, y = table[:, :-1], table[:, -1:]
else:
    try:
        from sklearn.datasets import load_diabetes
    except ImportError:
        raise SystemExit('examples/boosting.py needs scikit-learn: pip install "wellfit[examples]"') from None

    x, y = (torch.tensor(part).float() for part in load_diabetes(return_X_y=True))
    y = y.unsqueeze(1)

test = torch.arange(len(x)) % 4 == 3
x = (x - x[~test].mean(0)) / x[~test].std(0)
y = (y - y[~test].mean()) / y[~test].std()
x_train, y_train, x_test, y_test = x[~test], y[~test], x[test], y[test]

shrinkage = 0.1
prediction, test_prediction = torch.zeros_like(y_train), torch.zeros_like(y_test)

for stage in range(1, 31):
    residual = y_train - prediction
    learner = nn.Sequential(nn.Linear(x.shape[1], 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = torch.optim.Adam(learner.parameters(), lr=0.02, weight_decay=1e-3)
    for _ in range(5):
        for batch in torch.randperm(len(x_train)).split(32):
            loss = nn.functional.mse_loss(learner(x_train[batch]), residual[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    learner.eval()
    with torch.no_grad():
        prediction += shrinkage * learner(x_train)
        test_prediction += shrinkage * learner(x_test)
    r2 = 1 - ((y_test - test_prediction).square().sum() / (y_test - y_test.mean()).square().sum()).item()
    if stage % 5 == 0:
        print(f"{stage:2} networks  residual variance {(y_train - prediction).var():.3f}  test R2 {r2:.3f}")

print(f"test R2 {r2:.3f}")
