"""A perceptron with norms on the digits of scikit-learn, whose layers can see signs: `python digits_norm.py`."""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

EPOCHS, BATCH, RATE = 40, 50, 2e-3


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.norm1 = nn.Linear(64, 256), nn.BatchNorm1d(256)
        self.fc2, self.norm2 = nn.Linear(256, 256), nn.BatchNorm1d(256)
        self.fc3 = nn.Linear(256, 10)

    def forward(self, x):
        x = F.hardtanh(self.norm1(self.fc1(x)))
        return self.fc3(F.hardtanh(self.norm2(self.fc2(x))))


def main():
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
    train, test = slice(0, 1400), slice(1400, None)
    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    for _ in range(EPOCHS):
        model.train()
        for rows in torch.randperm(1400).split(BATCH):
            loss = F.cross_entropy(model(x[train][rows]), y[train][rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        scheduler.step()
        model.eval()
        with torch.no_grad():
            right = (model(x[test]).argmax(1) == y[test]).float().mean().item()
    print(f"loss {loss.item():.4f}, test accuracy {100 * right:.2f} %")


if __name__ == "__main__":
    main()
