"""From words to digits: "four thousand and twelve" -> 4012, by sequence to sequence with attention.

    wellfit run examples/translate.py

An encoder reads the words in both directions; a decoder writes one digit after the other, and before each it looks
back at the words it needs (Bahdanau, Cho & Bengio 2015, "Neural machine translation by jointly learning to align and
translate"). In training the decoder is told the right digits so far (teacher forcing); in the test it must live with
its own (greedy decoding), and a number counts only if every digit is right. Look at the alignment at the end: which
word was looked at for which digit. A zero that no word stands for is the hard part.

Reaches: exact match 1.000 in 14 s.
"""

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

torch.manual_seed(0)

ONES = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]  # fmt: skip
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]


def in_words(n):
    if n < 20:
        return [ONES[n]]
    if n < 100:
        return [TENS[n // 10 - 2]] + (in_words(n % 10) if n % 10 else [])
    unit, name = (1000, "thousand") if n >= 1000 else (100, "hundred")
    rest = n % unit
    return in_words(n // unit) + [name] + (["and"] if 0 < rest < 100 else []) + (in_words(rest) if rest else [])


WORDS = ["<pad>", "<end>", *ONES, *TENS, "hundred", "thousand", "and"]
word_index = {word: i for i, word in enumerate(WORDS)}
START, END, IGNORE = 10, 11, -100  # beside the digits 0 to 9; cross_entropy leaves out targets of -100

# Numbers of one to six digits, each number once: those of the test never come up in training.
numbers = (10 ** (1 + 5 * torch.rand(12000))).long().unique()
numbers = numbers[torch.randperm(len(numbers))].tolist()
source = pad_sequence([torch.tensor([word_index[w] for w in in_words(n)] + [1]) for n in numbers], batch_first=True)
target = pad_sequence([torch.tensor([int(d) for d in str(n)] + [END]) for n in numbers], True, IGNORE)
n_test = 500


class Attention(nn.Module):
    """How well does each word go with the decoder's state? A small network with one tanh layer says it."""

    def __init__(self, hidden):
        super().__init__()
        self.query = nn.Linear(hidden, hidden, bias=False)
        self.key = nn.Linear(2 * hidden, hidden)
        self.score = nn.Linear(hidden, 1, bias=False)

    def forward(self, state, words, padding):
        scores = self.score(torch.tanh(self.query(state).unsqueeze(1) + self.key(words))).squeeze(2)
        weights = scores.masked_fill(padding, float("-inf")).softmax(dim=1)
        return (weights.unsqueeze(1) @ words).squeeze(1), weights


class Translator(nn.Module):
    def __init__(self, embedding=32, hidden=64):
        super().__init__()
        self.embed_words = nn.Embedding(len(WORDS), embedding, padding_idx=0)
        self.embed_digits = nn.Embedding(12, embedding)
        self.encoder = nn.GRU(embedding, hidden, batch_first=True, bidirectional=True)
        self.first_state = nn.Linear(hidden, hidden)
        self.attention = Attention(hidden)
        self.decoder = nn.GRUCell(embedding + 2 * hidden, hidden)
        self.output = nn.Linear(3 * hidden, 12)

    def forward(self, source, steps, target=None):
        words, ends = self.encoder(self.embed_words(source))
        state = torch.tanh(self.first_state(ends[1]))  # the backward pass ends at the first word
        digit = torch.full((len(source),), START)
        logits, alignments = [], []
        for t in range(steps):
            context, weights = self.attention(state, words, source == 0)
            state = self.decoder(torch.cat([self.embed_digits(digit), context], dim=1), state)
            logits.append(self.output(torch.cat([state, context], dim=1)))
            alignments.append(weights)
            digit = logits[-1].argmax(1) if target is None else target[:, t].clamp(min=0)
        return torch.stack(logits, dim=1), torch.stack(alignments, dim=1)


model = Translator()
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
criterion = nn.CrossEntropyLoss(ignore_index=IGNORE)


def exact_match():
    model.eval()
    with torch.no_grad():
        logits, _ = model(source[:n_test], target.shape[1])
        right = (logits.argmax(2) == target[:n_test]) | (target[:n_test] == IGNORE)
    model.train()
    return right.all(dim=1).float().mean().item()


for epoch in range(1, 4):
    for batch in (n_test + torch.randperm(len(numbers) - n_test)).split(64):
        optimizer.zero_grad()
        logits, _ = model(source[batch], target.shape[1], target[batch])
        loss = criterion(logits.flatten(0, 1), target[batch].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    schedule.step()
    print(f"epoch {epoch}  loss {loss.item():.3f}  exact match {exact_match():.3f}")

with torch.no_grad():
    logits, alignment = model(source[:1], target.shape[1])
for t, digit in enumerate(logits[0].argmax(1).tolist()):
    if digit == END:
        break
    print(f"{digit} <- {WORDS[source[0, alignment[0, t].argmax()]]}")
print(f"exact match {exact_match():.3f}")
