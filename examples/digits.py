"""Handwritten digits, learned by a network of eight layers.

    wellfit run examples/digits.py

The same network as examples/digits_ill.py, cured: ReLU instead of sigmoid, weights initialised for it, and a step
length that suits eight layers. wellfit has nothing to say about it.

Reaches: test accuracy 0.907 in 7 s.
"""

import torch
from torch import nn

try:
    from sklearn.datasets import load_digits
except ImportError:
    raise SystemExit('examples/digits.py needs scikit-learn: pip install "wellfit[examples]"') from None

torch.manual_seed(0)
images, labels = load_digits(return_X_y=True)
x = torch.tensor(images / 16.0, dtype=torch.float32)
y = torch.tensor(labels)
x_train, y_train, x_test, y_test = x[:1400], y[:1400], x[1400:], y[1400:]


class DeepNet(nn.Module):
    def __init__(self, width=64, depth=8):
        super().__init__()
        self.first = nn.Linear(64, width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(depth - 1))
        self.head = nn.Linear(width, 10)
        for layer in [self.first, *self.hidden]:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)

    def forward(self, x):
        x = torch.relu(self.first(x))
        for layer in self.hidden:
            x = torch.relu(layer(x))
        return self.head(x)


net = DeepNet()
loss_function = nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9)

for epoch in range(12):
    for batch in torch.randperm(len(x_train)).split(50):
        optimizer.zero_grad()
        loss = loss_function(net(x_train[batch]), y_train[batch])
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        accuracy = (net(x_test).argmax(1) == y_test).float().mean().item()
    if epoch % 3 == 2:
        print(f"epoch {epoch + 1:2}  loss {loss.item():.3f}  test accuracy {accuracy:.3f}")
