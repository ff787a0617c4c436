"""Praise or blame? A bidirectional LSTM reads movie reviews of any length.

    wellfit run examples/sentiment_lstm.py

Each batch is padded only to its own longest review and packed, so that the recurrence ends where the review ends; the
mean of its states decides, through one logit and binary cross-entropy. A network that walks through the words in order,
from both ends, can know how far a "not" reaches (Graves & Schmidhuber 2005, "Framewise phoneme classification with
bidirectional LSTM and other neural network architectures").
The reviews are made by the small grammar in examples/reviews.py, with negations, adverbs and neutral remarks.
With WELLFIT_DATA set it learns the sentences of Pang & Lee 2005; compare examples/sentiment_cnn.py.

Reaches: test accuracy 0.983 in 15 s.
"""

import os
from collections import Counter

import torch
from reviews import made_reviews, movie_reviews
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence
from torch.utils.data import DataLoader

torch.manual_seed(0)
if "WELLFIT_DATA" in os.environ:
    texts, labels = movie_reviews(os.environ["WELLFIT_DATA"])
    epochs = 3  # real words are many: soon they are known by heart
else:
    texts, labels = made_reviews(4000)
    epochs = 5

n_train = len(texts) * 9 // 10
counts = Counter(" ".join(texts[:n_train]).split())
vocabulary = {word: i + 2 for i, (word, _) in enumerate(counts.most_common(8000))}  # 0: padding, 1: unknown
reviews = [(torch.tensor([vocabulary.get(word, 1) for word in text.split()]), y) for text, y in zip(texts, labels)]


def collate(batch):
    words, labels = zip(*batch)
    lengths = torch.tensor([len(review) for review in words])
    return pad_sequence(words, batch_first=True), lengths, torch.tensor(labels, dtype=torch.float32)


train_batches = DataLoader(reviews[:n_train], batch_size=50, shuffle=True, collate_fn=collate)
test_batches = DataLoader(reviews[n_train:], batch_size=256, collate_fn=collate)


class Reader(nn.Module):
    def __init__(self, words, embedding_dim, hidden_dim):
        super().__init__()
        self.embedding = nn.Embedding(words, embedding_dim, padding_idx=0)
        self.lstm = nn.LSTM(embedding_dim, hidden_dim, batch_first=True, bidirectional=True)
        self.dropout = nn.Dropout(0.3)
        self.fc = nn.Linear(2 * hidden_dim, 1)

    def forward(self, words, lengths):
        vectors = self.dropout(self.embedding(words))
        packed = pack_padded_sequence(vectors, lengths, batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True)  # zeros after the end of a review
        mean = states.sum(dim=1) / lengths.unsqueeze(1)
        return self.fc(self.dropout(mean)).squeeze(1)


model = Reader(len(vocabulary) + 2, embedding_dim=32, hidden_dim=32)
criterion = nn.BCEWithLogitsLoss()
optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)

for epoch in range(epochs):
    model.train()
    running_loss = 0.0
    for words, lengths, labels in train_batches:
        loss = criterion(model(words, lengths), labels)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), max_norm=5.0)
        optimizer.step()
        running_loss += loss.item()

    model.eval()
    correct = 0
    with torch.no_grad():
        for words, lengths, labels in test_batches:
            praise = model(words, lengths) > 0  # a logit above 0 is a probability above 1/2
            correct += (praise == labels.bool()).sum().item()
    accuracy = correct / (len(reviews) - n_train)
    print(f"epoch {epoch + 1}: loss {running_loss / len(train_batches):.3f}, test accuracy {accuracy:.3f}")

print(f"test accuracy {accuracy:.3f}")
