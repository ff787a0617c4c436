"""A small residual network: each block adds something to what it was given.

    wellfit run examples/resnet.py

The way around each block lets the gradient reach the first layer unchanged, so depth no longer hurts. Three stages as
in the paper's networks for CIFAR-10, with one block each; a warm-up, then a learning rate that falls to zero;
training pictures are shifted by a pixel or so, and seldom come twice alike.
(He, Zhang, Ren and Sun 2016, "Deep residual learning for image recognition".)
With WELLFIT_DATA set it learns 10 000 pictures of CIFAR-10 instead of scikit-learn's 8x8 digits.

Reaches: test accuracy 0.972 in 12 s.
"""

import os

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)

if "WELLFIT_DATA" in os.environ:
    import numpy as np

    cifar = np.load(os.path.join(os.environ["WELLFIT_DATA"], "cifar10_small.npz"))
    x_train = torch.tensor(cifar["x_train"]).permute(0, 3, 1, 2) / 255
    y_train = torch.tensor(cifar["y_train"]).long()
    x_test = torch.tensor(cifar["x_test"]).permute(0, 3, 1, 2) / 255
    y_test = torch.tensor(cifar["y_test"]).long()
    width, epochs, batch_size, shift = 8, 5, 100, 3
else:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise SystemExit('examples/resnet.py needs scikit-learn: pip install "wellfit[examples]"') from None

    digits = load_digits()
    x = torch.tensor(digits.images / 16).float().unsqueeze(1)
    y = torch.tensor(digits.target)
    x_train, y_train, x_test, y_test = x[:1400], y[:1400], x[1400:], y[1400:]
    width, epochs, batch_size, shift = 16, 15, 50, 1

mean = x_train.mean(dim=(0, 2, 3), keepdim=True)
std = x_train.std(dim=(0, 2, 3), keepdim=True)
x_train, x_test = (x_train - mean) / std, (x_test - mean) / std


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        # Where the shape changes, the way around needs a 1x1 convolution.
        self.around = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.around = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x):
        y = F.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        return F.relu(y + self.around(x))


class ResNet(nn.Module):
    def __init__(self, channels, width):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.stage1 = Block(width, width, stride=1)
        self.stage2 = Block(width, 2 * width, stride=2)
        self.stage3 = Block(2 * width, 4 * width, stride=2)
        self.head = nn.Linear(4 * width, 10)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x):
        x = self.stage3(self.stage2(self.stage1(self.stem(x))))
        x = x.mean(dim=(2, 3))  # global average pooling
        return self.head(x)


def shifted(images):
    """Cut the pictures out of padded ones, at a place drawn for the batch."""
    size = images.shape[-1]
    padded = F.pad(images, (shift, shift, shift, shift), mode="replicate")
    top, left = torch.randint(0, 2 * shift + 1, (2,)).tolist()
    return padded[:, :, top : top + size, left : left + size]


def evaluate():
    net.eval()
    with torch.no_grad():
        right = sum((net(x).argmax(1) == y).sum() for x, y in zip(x_test.split(500), y_test.split(500)))
    net.train()
    return right.item() / len(x_test)


net = ResNet(x_train.shape[1], width)
steps = epochs * -(-len(x_train) // batch_size)
optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=steps)

for epoch in range(1, epochs + 1):
    for index in torch.randperm(len(x_train)).split(batch_size):
        loss = F.cross_entropy(net(shifted(x_train[index])), y_train[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    if epoch % (2 if epochs > 8 else 1) == 0:
        print(f"epoch {epoch:2}  lr {schedule.get_last_lr()[0]:.4f}  loss {loss.item():.3f}  accuracy {evaluate():.3f}")

print(f"test accuracy {evaluate():.3f}")
