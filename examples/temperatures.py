"""How cold will tomorrow's night be? An LSTM reads the last thirty days and forecasts the next.

    wellfit run examples/temperatures.py

The forecast to beat is persistence: tomorrow will be as today. The number at the end is the squared error of the LSTM
divided by that of persistence, so 1 is worthless and the noise of the weather sets a floor well above 0. The last
part of the series is the test: a forecast is judged on the future, never on days drawn from between those it learned.
Here the weather is made: a seasonal wave, and fronts that overshoot within a few days.
With WELLFIT_DATA set it learns ten years of daily minimum temperatures in Melbourne, 1981-1990, instead.

Reaches: error relative to persistence 0.756 in 6 s.
"""

import csv
import math
import os

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)

if "WELLFIT_DATA" in os.environ:
    with open(os.path.join(os.environ["WELLFIT_DATA"], "daily-min-temperatures.csv")) as file:
        series = torch.tensor([float(row["Temp"]) for row in csv.DictReader(file)])
else:
    deviation = [0.0, 0.0]
    for shock in torch.randn(3650).tolist():  # an autoregressive process of order 2
        deviation.append(1.0 * deviation[-1] - 0.5 * deviation[-2] + 2.0 * shock)
    series = 11 + 4 * torch.cos(2 * math.pi * torch.arange(3650) / 365.25) + torch.tensor(deviation[2:])

past = 30
days_train = int(0.8 * len(series))
mean, std = series[:days_train].mean(), series[:days_train].std()  # of the training years: the future is not known
scaled = (series - mean) / std

windows = scaled.unfold(0, past + 1, 1)  # every stretch of 31 days: (windows, 31)
x, y = windows[:, :past].unsqueeze(2), windows[:, past:]
x_train, y_train = x[: days_train - past], y[: days_train - past]
x_test, y_test = x[days_train - past :], y[days_train - past :]


class Forecaster(nn.Module):
    def __init__(self, hidden=32):
        super().__init__()
        self.lstm = nn.LSTM(input_size=1, hidden_size=hidden, batch_first=True)
        self.output = nn.Linear(hidden, 1)

    def forward(self, days):
        _, (last_hidden, _) = self.lstm(days)
        return self.output(last_hidden[-1])


model = Forecaster()
criterion = nn.MSELoss()
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
loader = DataLoader(TensorDataset(x_train, y_train), batch_size=64, shuffle=True)
persistence = criterion(x_test[:, -1], y_test).item()

for epoch in range(1, 13):
    model.train()
    total = 0.0
    for days, tomorrow in loader:
        optimizer.zero_grad()
        loss = criterion(model(days), tomorrow)
        loss.backward()
        optimizer.step()
        total += loss.item() * len(days)

    model.eval()
    with torch.no_grad():
        error = criterion(model(x_test), y_test).item()
    if epoch % 2 == 0:
        degrees = math.sqrt(error) * std.item()
        print(f"epoch {epoch:2}  training error {total / len(x_train):.3f}  test error {error:.3f} ({degrees:.2f} °C)")

print(f"persistence is wrong by {math.sqrt(persistence) * std.item():.2f} °C")
print(f"error relative to persistence {error / persistence:.3f}")
