"""A character at a time: an LSTM learns to write by guessing the next letter.

    wellfit run examples/char_lstm.py

The text is cut into streams that are read in parallel, and training sees pieces of 50 characters: the state at the
end of a piece is where the next begins, but detached, so that the gradient goes back through one piece only. This is
truncated back-propagation through time (Werbos 1990; for characters Sutskever et al. 2011, "Generating text with
recurrent neural networks"). The number at the end is bits per character on text it has not seen: knowing nothing costs
more than 6, knowing which letters are common nearly 5.
It reads the descriptions of data sets that come with scikit-learn; with WELLFIT_DATA set, a part of Shakespeare.

Reaches: validation bits per character 2.860 in 16 s.
"""

import math
import os

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
if "WELLFIT_DATA" in os.environ:
    with open(os.path.join(os.environ["WELLFIT_DATA"], "shakespeare.txt"), encoding="utf-8") as file:
        text = file.read(400_000)
    epochs = 4
else:
    try:
        from sklearn.datasets import descr
    except ImportError:
        raise SystemExit('examples/char_lstm.py needs scikit-learn: pip install "wellfit[examples]"') from None
    folder, text = os.path.dirname(descr.__file__), ""
    for name in sorted(os.listdir(folder)):
        if name.endswith(".rst"):
            with open(os.path.join(folder, name), encoding="utf-8") as file:
                text += file.read()
    epochs = 20

letters = sorted(set(text))
number = {letter: i for i, letter in enumerate(letters)}
data = torch.tensor([number[letter] for letter in text])
n_train = int(0.9 * len(data))
piece = 50


def streams(data, count):
    """The text as `count` columns, each going on where it left off: (length, count)."""
    length = len(data) // count
    return data[: length * count].view(count, length).t()


train_text, validation_text = streams(data[:n_train], 32), streams(data[n_train:], 8)


class CharLSTM(nn.Module):
    def __init__(self, symbols, embedding=32, hidden=128):
        super().__init__()
        self.embedding = nn.Embedding(symbols, embedding)
        self.lstm = nn.LSTM(embedding, hidden)
        self.decoder = nn.Linear(hidden, symbols)

    def forward(self, letters, state=None):
        output, state = self.lstm(self.embedding(letters), state)
        return self.decoder(output), state


model = CharLSTM(len(letters))
optimizer = torch.optim.RMSprop(model.parameters(), lr=2e-3, alpha=0.95)


def validate():
    model.eval()
    with torch.no_grad():
        scores, _ = model(validation_text[:-1])
        nats = F.cross_entropy(scores.flatten(0, 1), validation_text[1:].flatten())
    return nats.item() / math.log(2)


for epoch in range(1, epochs + 1):
    model.train()
    state = None  # the streams begin again
    for start in range(0, len(train_text) - 1, piece):
        x = train_text[start : start + piece]
        y = train_text[start + 1 : start + 1 + piece]
        scores, state = model(x[: len(y)], state)
        state = tuple(part.detach() for part in state)  # carried over, but no gradient goes back into the past
        loss = F.cross_entropy(scores.flatten(0, 1), y.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    if epoch % max(1, epochs // 5) == 0:
        print(f"epoch {epoch:2}  last loss {loss.item():.3f}  validation {validate():.3f} bits per character")

# A sample: what it has guessed becomes what it reads next.
model.eval()
sample, state = [int(data[n_train])], None
with torch.no_grad():
    for _ in range(150):
        scores, state = model(torch.tensor([[sample[-1]]]), state)
        sample.append(int(torch.multinomial(F.softmax(scores[0, 0], dim=0), 1)))
print("sample: " + " ".join("".join(letters[i] for i in sample).split()))
print(f"validation bits per character {validate():.3f}")
