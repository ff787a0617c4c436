"""Maxout: units that learn their own activation function.

    wellfit run examples/maxout.py

A ReLU is the larger of 0 and one linear function; a maxout unit is the largest of several, all learned. It can be a
ReLU, an absolute value or any convex curve of pieces, and it has no flat side where a gradient could die. Made for
dropout, which here leaves out 20 % of the pixels and half of the hidden units; the length of each unit's weights is
bounded, as in the paper, so that the rate can be high. (Goodfellow, Warde-Farley, Mirza, Courville and Bengio 2013,
"Maxout networks".)
With WELLFIT_DATA set it learns MNIST instead of scikit-learn's 8x8 digits.

Reaches: test accuracy 0.980 in 8 s.
"""

import os

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)

if "WELLFIT_DATA" in os.environ:
    import numpy as np

    mnist = np.load(os.path.join(os.environ["WELLFIT_DATA"], "mnist.npz"))
    x_train, y_train = torch.tensor(mnist["x_train"]).flatten(1) / 255, torch.tensor(mnist["y_train"]).long()
    x_test, y_test = torch.tensor(mnist["x_test"]).flatten(1) / 255, torch.tensor(mnist["y_test"]).long()
    units, epochs, batch_size = 120, 4, 128
else:
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError:
        raise SystemExit('examples/maxout.py needs scikit-learn: pip install "wellfit[examples]"') from None

    data, target = load_digits(return_X_y=True)
    split = train_test_split(data / 16, target, test_size=400, stratify=target, random_state=0)
    x_train, x_test = (torch.tensor(part, dtype=torch.float32) for part in split[:2])
    y_train, y_test = (torch.tensor(part) for part in split[2:])
    units, epochs, batch_size = 60, 40, 50


class Maxout(nn.Module):
    def __init__(self, inputs, outputs, pieces=4):
        super().__init__()
        self.linear = nn.Linear(inputs, outputs * pieces)
        self.shape = (outputs, pieces)

    def forward(self, x):
        return self.linear(x).unflatten(-1, self.shape).amax(-1)


class Net(nn.Module):
    def __init__(self, pixels):
        super().__init__()
        self.hidden1 = Maxout(pixels, units)
        self.hidden2 = Maxout(units, units)
        self.scores = nn.Linear(units, 10)

    def forward(self, x):
        x = F.dropout(x, 0.2, self.training)
        x = F.dropout(self.hidden1(x), 0.5, self.training)
        x = F.dropout(self.hidden2(x), 0.5, self.training)
        return self.scores(x)


def bound_weights(model, longest=2.0):
    """Shorten the weights of any unit that grew longer than this."""
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.Linear):
                layer.weight.copy_(torch.renorm(layer.weight, 2, 0, longest))


mean = x_train.mean(0)
x_train, x_test = (x_train - mean) / x_train.std(), (x_test - mean) / x_train.std()
train_loader = DataLoader(TensorDataset(x_train, y_train), batch_size, shuffle=True)
net = Net(x_train.shape[1])
optimizer = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs)

for epoch in range(epochs):
    net.train()
    total = 0.0
    for images, labels in train_loader:
        optimizer.zero_grad()
        loss = F.cross_entropy(net(images), labels)
        loss.backward()
        optimizer.step()
        bound_weights(net)
        total += loss.item()
    schedule.step()
    if (epoch + 1) % max(1, epochs // 8) == 0:
        print(f"epoch {epoch + 1}: mean loss {total / len(train_loader):.3f}")

net.eval()
with torch.inference_mode():
    accuracy = (net(x_test).argmax(1) == y_test).float().mean().item()
print(f"test accuracy {accuracy:.3f}")
