"""The perceptron: one linear unit that learns only from its mistakes, as in 1958.

    wellfit run examples/perceptron.py

Thirty measurements of a cell nucleus come in, one number comes out; its sign says malignant or benign. A sample on the
right side teaches nothing, one on the wrong side pulls the weights towards itself. This rule is a gradient step on the
"perceptron criterion" max(0, -y f(x)), so the code below looks like any other training loop.
(Rosenblatt 1958, "The perceptron: a probabilistic model for information storage and organization in the brain".)
With WELLFIT_DATA set it tells MNIST's threes from its fives instead, pixel by pixel.

Reaches: test accuracy 0.958 in 7 s.
"""

import os

import torch

torch.manual_seed(0)

if "WELLFIT_DATA" in os.environ:
    import numpy as np

    mnist = np.load(os.path.join(os.environ["WELLFIT_DATA"], "mnist.npz"))
    x = torch.tensor(mnist["x_train"]).flatten(1).float()
    digit = torch.tensor(mnist["y_train"])
    x, y = x[(digit == 3) | (digit == 5)], (digit[(digit == 3) | (digit == 5)] == 5).float()
else:
    try:
        from sklearn.datasets import load_breast_cancer
    except ImportError:
        raise SystemExit('examples/perceptron.py needs scikit-learn: pip install "wellfit[examples]"') from None

    measurements, benign = load_breast_cancer(return_X_y=True)
    x, y = torch.tensor(measurements).float(), torch.tensor(benign).float()

y = 2 * y - 1  # the two classes are -1 and +1
test = torch.arange(len(x)) % 4 == 0  # every fourth sample is kept for the test
mean, scale = x[~test].mean(0), x[~test].std(0) + 1e-3 * x.std()  # some pixels of MNIST never vary
x = (x - mean) / scale
x_train, y_train, x_test, y_test = x[~test], y[~test], x[test], y[test]

unit = torch.nn.Linear(x.shape[1], 1)
# Only the direction of the weights decides, so Rosenblatt's rate of 1 would do as well; the decay calms the last steps.
optimizer = torch.optim.SGD(unit.parameters(), lr=0.1)
epochs = 8
schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, total_iters=epochs)

for epoch in range(epochs):
    mistakes = 0
    for i in torch.randperm(len(x_train))[:2000]:  # one sample at a time
        f = unit(x_train[i])
        loss = torch.relu(-y_train[i] * f).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        mistakes += int(loss > 0)
    schedule.step()
    print(f"epoch {epoch + 1}  mistakes while learning {mistakes}")

with torch.no_grad():
    right = unit(x_test).squeeze(1) * y_test > 0
accuracy = right.float().mean().item()
print(f"test accuracy {accuracy:.3f}")
