"""Praise or blame? A convolutional network reads movie reviews.

    wellfit run examples/sentiment_cnn.py

Each filter looks at 3, 4 or 5 words in a row and gives its strongest answer over the whole sentence (max over time);
dropout and a linear layer decide (Kim 2014, "Convolutional neural networks for sentence classification", the variant
that learns its word vectors from scratch). A bag of words is little better than guessing here: "the plot is not
good , the cast is stale" has the words of "the plot is good , the cast is not stale".
The reviews are made by the small grammar in examples/reviews.py, with negations, adverbs and neutral remarks.
With WELLFIT_DATA set it learns the sentences of Pang & Lee 2005, as in the paper.

Reaches: test accuracy 1.000 in 11 s.
"""

import os
from collections import Counter

import torch
import torch.nn.functional as F
from reviews import made_reviews, movie_reviews
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)

if "WELLFIT_DATA" in os.environ:
    texts, labels = movie_reviews(os.environ["WELLFIT_DATA"])
else:
    texts, labels = made_reviews(4000)

sentences = [text.split() for text in texts]
n_test = len(sentences) // 10
counts = Counter(word for sentence in sentences[n_test:] for word in sentence)
words = ["<padding>", "<unknown>"] + [word for word, count in counts.items() if count > 1]
index = {word: i for i, word in enumerate(words)}
longest = max(len(sentence) for sentence in sentences)
x = torch.zeros(len(sentences), longest, dtype=torch.long)
for row, sentence in zip(x, sentences):
    row[: len(sentence)] = torch.tensor([index.get(word, 1) for word in sentence])
y = torch.tensor(labels)

train_loader = DataLoader(TensorDataset(x[n_test:], y[n_test:]), batch_size=50, shuffle=True)
test_loader = DataLoader(TensorDataset(x[:n_test], y[:n_test]), batch_size=500)


class TextCNN(nn.Module):
    def __init__(self, vocabulary, dimension=64, feature_maps=50, windows=(3, 4, 5)):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, dimension, padding_idx=0)
        nn.init.uniform_(self.embedding.weight, -0.25, 0.25)  # as the paper does for words it has no vector for
        with torch.no_grad():
            self.embedding.weight[0] = 0  # the padding stays silent
        self.convolutions = nn.ModuleList(nn.Conv1d(dimension, feature_maps, window) for window in windows)
        self.dropout = nn.Dropout(0.5)
        self.classifier = nn.Linear(feature_maps * len(windows), 2)

    def forward(self, x):
        vectors = self.embedding(x).transpose(1, 2)  # batch, dimension, words
        features = [F.relu(convolution(vectors)).amax(dim=2) for convolution in self.convolutions]
        return self.classifier(self.dropout(torch.cat(features, dim=1)))


def train(model, optimizer):
    model.train()
    total = 0.0
    for x, y in train_loader:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        with torch.no_grad():  # the paper's constraint: no row of the last layer longer than 3
            model.classifier.weight.copy_(model.classifier.weight.renorm(2, 0, 3.0))
        total += loss.item()
    return total / len(train_loader)


@torch.no_grad()
def test(model):
    model.eval()
    right = sum((model(x).argmax(1) == y).sum().item() for x, y in test_loader)
    return right / n_test


model = TextCNN(len(words))
optimizer = torch.optim.Adadelta(model.parameters(), lr=1.0, rho=0.95)
for epoch in range(1, 7):
    loss = train(model, optimizer)
    accuracy = test(model)
    print(f"epoch {epoch}  training loss {loss:.3f}  test accuracy {accuracy:.3f}")
print(f"test accuracy {accuracy:.3f}")
