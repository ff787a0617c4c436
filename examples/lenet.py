"""LeNet-5 on handwritten digits: a convolutional network of 1998, learned in seconds.

    wellfit run examples/lenet.py

The layers have the names of the paper: C1, S2, C3, S4, C5, F6. Small filters shared over the image, averages that
forget the exact place, tanh in between, 61 706 weights in all. Two things are of today: softmax with cross-entropy
in place of the Gaussian output units, and every map of C3 sees all six of S2.
(LeCun, Bottou, Bengio and Haffner 1998, "Gradient-based learning applied to document recognition".)
With WELLFIT_DATA set it learns MNIST instead of scikit-learn's 8x8 digits, which are enlarged to 32x32.

Reaches: test accuracy 0.922 in 10 s.
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
    images = torch.tensor(np.concatenate([mnist["x_train"][:20000], mnist["x_test"]])) / 255
    labels = torch.tensor(np.concatenate([mnist["y_train"][:20000], mnist["y_test"]])).long()
    images = F.pad(images, (2, 2, 2, 2)).unsqueeze(
        1
    )  # 28 -> 32, so that strokes at the rim reach the middle of a filter
    n_train, epochs = 20000, 3
else:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise SystemExit('examples/lenet.py needs scikit-learn: pip install "wellfit[examples]"') from None

    digits = load_digits()
    images = torch.tensor(digits.images / 16).float().unsqueeze(1)
    images = F.interpolate(images, size=(32, 32), mode="bilinear")
    labels = torch.tensor(digits.target)
    n_train, epochs = 1400, 12

# The paper scales the input to mean 0 and variance 1, "which accelerates learning".
images = (images - images[:n_train].mean()) / images[:n_train].std()
train_set = TensorDataset(images[:n_train], labels[:n_train])
test_set = TensorDataset(images[n_train:], labels[n_train:])


class LeNet5(nn.Module):
    def __init__(self):
        super().__init__()
        self.c1 = nn.Conv2d(1, 6, 5)  # 32x32 -> 28x28
        self.s2 = nn.AvgPool2d(2)  # -> 14x14
        self.c3 = nn.Conv2d(6, 16, 5)  # -> 10x10
        self.s4 = nn.AvgPool2d(2)  # -> 5x5
        self.c5 = nn.Conv2d(16, 120, 5)  # -> 1x1
        self.f6 = nn.Linear(120, 84)
        self.output = nn.Linear(84, 10)

    def forward(self, x):
        x = self.s2(torch.tanh(self.c1(x)))
        x = self.s4(torch.tanh(self.c3(x)))
        x = torch.tanh(self.c5(x)).flatten(1)
        x = torch.tanh(self.f6(x))
        return self.output(x)


def train(model, loader, optimizer):
    model.train()
    for x, y in loader:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
    return loss.item()


def test(model, loader):
    model.eval()
    right = 0
    with torch.no_grad():
        for x, y in loader:
            right += (model(x).argmax(1) == y).sum().item()
    return right / len(loader.dataset)


train_loader = DataLoader(train_set, batch_size=32, shuffle=True)
test_loader = DataLoader(test_set, batch_size=500)
model = LeNet5()
optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)

for epoch in range(1, epochs + 1):
    loss = train(model, train_loader, optimizer)
    accuracy = test(model, test_loader)
    if epoch % max(1, epochs // 6) == 0:
        print(f"epoch {epoch:2}  loss {loss:.3f}  accuracy {accuracy:.3f}")

print(f"test accuracy {accuracy:.3f}")
