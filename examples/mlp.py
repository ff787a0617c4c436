"""A multilayer perceptron on handwritten digits: the first network most people train.

    wellfit run examples/mlp.py

Pixels in, two hidden layers of ReLU units, ten scores out; cross-entropy, Adam, batches of 32. If you read one example,
read this one: data, model, loop, test. (Rumelhart, Hinton and Williams 1986, "Learning representations by
back-propagating errors"; ReLU: Glorot, Bordes and Bengio 2011.)
With WELLFIT_DATA set it learns MNIST instead of scikit-learn's 8x8 digits.

Reaches: test accuracy 0.927 in 8 s.
"""

import os

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)

if "WELLFIT_DATA" in os.environ:
    import numpy as np

    mnist = np.load(os.path.join(os.environ["WELLFIT_DATA"], "mnist.npz"))
    x_train, y_train = torch.tensor(mnist["x_train"]).flatten(1) / 255, torch.tensor(mnist["y_train"]).long()
    x_test, y_test = torch.tensor(mnist["x_test"]).flatten(1) / 255, torch.tensor(mnist["y_test"]).long()
    epochs = 4
else:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise SystemExit('examples/mlp.py needs scikit-learn: pip install "wellfit[examples]"') from None

    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images / 16).float(), torch.tensor(labels)
    # The last 397 digits come from other writers than the first 1400: a fair test, and a harder one.
    x_train, y_train, x_test, y_test = x[:1400], y[:1400], x[1400:], y[1400:]
    epochs = 40

mean, std = x_train.mean(), x_train.std()
x_train, x_test = (x_train - mean) / std, (x_test - mean) / std

train_loader = DataLoader(TensorDataset(x_train, y_train), batch_size=32, shuffle=True)

model = nn.Sequential(
    nn.Linear(x_train.shape[1], 128),
    nn.ReLU(),
    nn.Linear(128, 64),
    nn.ReLU(),
    nn.Linear(64, 10),  # scores; the softmax is inside the loss
)
loss_function = nn.CrossEntropyLoss()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

for epoch in range(1, epochs + 1):
    model.train()
    total = 0.0
    for inputs, targets in train_loader:
        optimizer.zero_grad()
        loss = loss_function(model(inputs), targets)
        loss.backward()
        optimizer.step()
        total += loss.item() * len(inputs)
    if epoch % max(1, epochs // 8) == 0:
        print(f"epoch {epoch:2}  training loss {total / len(x_train):.4f}")

model.eval()
with torch.no_grad():
    accuracy = (model(x_test).argmax(1) == y_test).float().mean().item()
print(f"test accuracy {accuracy:.3f}")
