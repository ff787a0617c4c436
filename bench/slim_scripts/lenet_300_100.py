"""LeNet-300-100 on MNIST: `WELLFIT_DATA=... python lenet_300_100.py`."""

import os

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

EPOCHS, BATCH, RATE = 20, 250, 1e-3


def data():
    mnist = np.load(os.path.join(os.environ["WELLFIT_DATA"], "mnist.npz"))
    images, test_images = (torch.tensor(mnist[name]).float() / 255 for name in ("x_train", "x_test"))
    return images, torch.tensor(mnist["y_train"]).long(), test_images, torch.tensor(mnist["y_test"]).long()


class LeNet300(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(784, 300)
        self.fc2 = nn.Linear(300, 100)
        self.fc3 = nn.Linear(100, 10)

    def forward(self, x):
        x = F.relu(self.fc1(x.flatten(1)))
        return self.fc3(F.relu(self.fc2(x)))


def moved(x):
    """Each image by up to one pixel each way."""
    padded = F.pad(x, (1, 1, 1, 1)).flatten(1)
    start = torch.randint(0, 3, (len(x), 1)) * 30 + torch.randint(0, 3, (len(x), 1))
    places = (torch.arange(28)[:, None] * 30 + torch.arange(28)).flatten()
    return padded.gather(1, start + places).view(-1, 28, 28)


def accuracy(model, images, labels):
    model.eval()
    with torch.no_grad():
        correct = sum((model(x).argmax(1) == y).sum().item() for x, y in zip(images.split(1000), labels.split(1000)))
    model.train()
    return 100 * correct / len(images)


def main():
    torch.manual_seed(0)
    images, labels, test_images, test_labels = data()
    model = LeNet300()
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, RATE, epochs=EPOCHS, steps_per_epoch=len(images) // BATCH, pct_start=0.05, final_div_factor=100
    )
    for epoch in range(EPOCHS):
        total = 0.0
        for rows in torch.randperm(len(images)).split(BATCH):
            loss = F.cross_entropy(model(moved(images[rows])), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            total += loss.item() * len(rows)
        found = accuracy(model, test_images, test_labels)
        print(f"epoch {epoch + 1}: loss {total / len(images):.4f}, test accuracy {found:.2f} %", flush=True)


if __name__ == "__main__":
    main()
