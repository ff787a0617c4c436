"""ResNet-20 on the part of CIFAR-10 in cifar10_small.npz: `WELLFIT_DATA=... python resnet20.py`."""

import os

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

EPOCHS, BATCH, RATE = 24, 100, 4e-3
MEAN, SPREAD = torch.tensor([0.491, 0.482, 0.447]), torch.tensor([0.247, 0.243, 0.262])


def data():
    cifar = np.load(os.path.join(os.environ["WELLFIT_DATA"], "cifar10_small.npz"))
    images, test_images = (
        ((torch.tensor(cifar[name]).float() / 255 - MEAN) / SPREAD).permute(0, 3, 1, 2).contiguous()
        for name in ("x_train", "x_test")
    )
    return images, torch.tensor(cifar["y_train"]).long(), test_images, torch.tensor(cifar["y_test"]).long()


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.added = stride, outputs - inputs

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        short = x[:, :, :: self.stride, :: self.stride]
        if self.added:
            short = F.pad(short, (0, 0, 0, 0, self.added // 2, self.added // 2))
        return F.relu(out + short)


class ResNet20(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        blocks, inputs = [], 16
        for outputs, stride in ((16, 1), (32, 2), (64, 2)):
            for number in range(3):
                blocks.append(Block(inputs, outputs, stride if number == 0 else 1))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(64, 10)

    def forward(self, x):
        return self.fc(self.blocks(F.relu(self.bn(self.conv(x)))).mean((2, 3)))


def moved(x):
    """Each batch by up to four pixels each way, half of the images mirrored."""
    down, right = torch.randint(0, 9, (2,)).tolist()
    x = F.pad(x, (4, 4, 4, 4))[:, :, down : down + 32, right : right + 32]
    return torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(3), x)


def accuracy(model, images, labels):
    model.eval()
    with torch.no_grad():
        correct = sum((model(x).argmax(1) == y).sum().item() for x, y in zip(images.split(500), labels.split(500)))
    model.train()
    return 100 * correct / len(images)


def main():
    torch.manual_seed(0)
    images, labels, test_images, test_labels = data()
    model = ResNet20().to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, RATE, epochs=EPOCHS, steps_per_epoch=len(images) // BATCH, pct_start=0.2, final_div_factor=100
    )
    for epoch in range(EPOCHS):
        total = 0.0
        for rows in torch.randperm(len(images)).split(BATCH):
            with torch.autocast("cpu", torch.bfloat16):
                scores = model(moved(images[rows]))
            loss = F.cross_entropy(scores.float(), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            total += loss.item() * len(rows)
        found = accuracy(model, test_images, test_labels)
        print(f"epoch {epoch + 1}: loss {total / len(images):.4f}, test accuracy {found:.2f} %", flush=True)


if __name__ == "__main__":
    main()
