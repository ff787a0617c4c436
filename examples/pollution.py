"""Air pollution six hours ahead, from a day of pollution and weather: a GRU with many inputs.

    wellfit run examples/pollution.py

What the wind and the pressure do tells what the dust in the air will do: the gain over persistence (in six hours it
will be as now) comes from the other columns, which a forecast from pollution alone cannot have. The number at the end
is the squared error divided by that of persistence.
Here the weather is made: fronts announce themselves by falling pressure, the wind that follows blows the dust away.
With WELLFIT_DATA set it learns the hourly record of Beijing 2010-2014 (PM2.5 and weather, Liang et al. 2015) instead,
four years for training and the fifth for the test.

Reaches: error relative to persistence 0.323 in 9 s.
"""

import csv
import math
import os

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)


def beijing(path):
    """Hours x features, the logarithm of PM2.5 first. Where it is missing, the last value is kept."""
    rows, dust = [], None
    with open(path) as file:
        for row in csv.DictReader(file):
            dust = row["pm2.5"] if row["pm2.5"] != "NA" else dust
            if dust is None:
                continue  # the first day has none at all
            wind = [float(row["cbwd"] == direction) for direction in ("NW", "NE", "SE", "cv")]
            weather = [float(row[name]) for name in ("DEWP", "TEMP", "PRES")]
            hour = 2 * math.pi * int(row["hour"]) / 24
            # Dust and wind go over powers of ten: their logarithms are closer to what a network likes.
            rows.append([math.log1p(float(dust)), *weather, math.log1p(float(row["Iws"])), *wind])
            rows[-1] += [math.sin(hour), math.cos(hour)]
    return torch.tensor(rows)


def made_weather(hours):
    """Hours x features, the logarithm of the dust first: pressure drives the wind, and the wind drives the dust."""
    rows, pressure, swing, dust = [], 0.0, 0.0, 3.0
    recent = [0.0] * 6
    for hour, (shock, gust, traffic) in enumerate(torch.randn(hours, 3).tolist()):
        swing = 0.9 * swing + 0.15 * shock  # pressure has a momentum of its own: fronts last for many hours
        pressure = 0.98 * pressure + swing
        recent = [*recent[1:], pressure]
        wind = math.exp(0.5 * (recent[0] - pressure) + 0.2 * gust)  # it rises while pressure falls
        day = 2 * math.pi * hour / 24
        dust += 0.12 + 0.05 * math.sin(day) - 0.06 * wind - 0.03 * (dust - 3) + 0.05 * traffic
        rows.append([dust, pressure, math.log1p(wind), math.sin(day), math.cos(day)])
    return torch.tensor(rows)


if "WELLFIT_DATA" in os.environ:
    table, hours_train = beijing(os.path.join(os.environ["WELLFIT_DATA"], "pollution.csv")), 4 * 365 * 24
else:
    table, hours_train = made_weather(8000), 6400

past, ahead = 24, 6
table = (table - table[:hours_train].mean(0)) / table[:hours_train].std(0)
starts_train = torch.arange(hours_train - past - ahead)
starts_test = torch.arange(hours_train, len(table) - past - ahead)


def windows(starts):
    """The day that begins at each start, and how much the dust has changed six hours after its end."""
    hours = table[starts[:, None] + torch.arange(past)]
    return hours, table[starts + past - 1 + ahead, 0] - hours[:, -1, 0]


class Forecast(nn.Module):
    def __init__(self, features, hidden):
        super().__init__()
        self.gru = nn.GRU(features, hidden, batch_first=True)
        self.head = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, hours):
        _, state = self.gru(hours)
        return self.head(state[-1]).squeeze(1)


net = Forecast(table.shape[1], 32)
optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.01)
epochs = 6
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)


def test():
    net.eval()
    with torch.no_grad():
        hours, change = windows(starts_test)
        # Persistence forecasts a change of 0, so its squared error is that of the change itself.
        return (F.mse_loss(net(hours), change) / change.square().mean()).item()


for epoch in range(1, epochs + 1):
    net.train()
    losses = []
    for starts in starts_train[torch.randperm(len(starts_train))].split(64):
        hours, change = windows(starts)
        loss = F.mse_loss(net(hours), change)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    schedule.step()
    relative = test()
    print(f"epoch {epoch}  training loss {sum(losses) / len(losses):.3f}  test error / persistence {relative:.3f}")

print(f"error relative to persistence {relative:.3f}")
