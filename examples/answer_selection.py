"""Which of ten answers fits the question? Sentences become vectors, and the fitting ones come to lie close together.

    wellfit run examples/answer_selection.py

One convolutional encoder reads questions and answers alike; the hinge loss asks that the right answer be closer to its
question, in cosine, than the wrong ones by a margin (Feng et al. 2015, "Applying deep learning to answer
selection"). The help desk here is made: questions and answers use different words for the same deeds and things, so
counting common words is no help, and the test asks about pairs of deed and thing that never came up in training, with
wrong answers that share the deed or the thing. A loss of 0 on some batches is as it should be: nothing is left to mend.

Reaches: test accuracy 0.990 in 12 s.
"""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)

DEEDS = [("repair", "mending"), ("sell", "offering"), ("clean", "washing"), ("borrow", "lending"),
         ("send", "shipping"), ("paint", "colouring"), ("insure", "covering"), ("store", "keeping"),
         ("find", "locating"), ("measure", "sizing")]  # fmt: skip
THINGS = [("car", "vehicle"), ("house", "building"), ("coat", "garment"), ("dog", "pet"), ("phone", "mobile"),
          ("bike", "cycle"), ("boat", "vessel"), ("sofa", "couch"), ("clock", "watch"), ("lamp", "light"),
          ("piano", "keyboard"), ("ring", "jewel"), ("stove", "oven"), ("plate", "dish"), ("road", "street"),
          ("shop", "store-front"), ("garden", "lawn"), ("letter", "mail"), ("picture", "photo"),
          ("tent", "shelter")]  # fmt: skip
QUESTIONS = ["how can i {} my {} ?", "where may one {} a {} today ?", "is it hard to {} the old {} ?",
             "who will {} this {} for me ?", "what does it cost to {} some {} ?"]  # fmt: skip
ANSWERS = ["{} a {} takes about an hour", "our desk helps you with {} any {}", "ask next door , {} the {} is free",
           "for the {0} of a {1} you need a form", "we do {} , and your {} is in good hands"]  # fmt: skip


def pick(choices):
    return choices[int(torch.randint(len(choices), ()))]


def question(deed, thing):
    return pick(QUESTIONS).format(DEEDS[deed][0], THINGS[thing][0])


def answer(deed, thing):
    return pick(ANSWERS).format(DEEDS[deed][1], THINGS[thing][1])


words = sorted({word for sides in DEEDS + THINGS for word in sides}
               | {word for sentence in QUESTIONS + ANSWERS for word in sentence.split()})  # fmt: skip
number = {word: i + 1 for i, word in enumerate(words)}  # 0 is the padding


def encode(sentences):
    rows = [torch.tensor([number[word] for word in sentence.split()]) for sentence in sentences]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True)


pairs = [(deed, thing) for deed in range(len(DEEDS)) for thing in range(len(THINGS))]
pairs = [pairs[i] for i in torch.randperm(len(pairs)).tolist()]
pairs_test, pairs_train = pairs[:40], pairs[40:]


class Encoder(nn.Module):
    """A sentence as a vector of length 1: embedding, convolution over three words, tanh, maximum over the sentence."""

    def __init__(self, dimension=48, maps=96):
        super().__init__()
        self.embedding = nn.Embedding(len(words) + 1, dimension, padding_idx=0)
        self.convolution = nn.Conv1d(dimension, maps, kernel_size=3, padding=1)
        self.output = nn.Linear(maps, 64)

    def forward(self, sentences):
        maps = self.convolution(self.embedding(sentences).transpose(1, 2))
        return F.normalize(self.output(torch.tanh(maps).amax(2)), dim=1)


encoder = Encoder()
optimizer = torch.optim.Adam(encoder.parameters(), lr=2e-3)
margin = 0.2


def accuracy_at_1():
    """Ten candidates to each question: the right answer, and nine that share the deed or the thing with it."""
    encoder.eval()
    right = total = 0
    with torch.no_grad():
        for _ in range(5):  # five wordings of each question
            for deed, thing in pairs_test:
                near = [pair for pair in pairs if (pair[0] == deed) != (pair[1] == thing)]
                wrong = [near[i] for i in torch.randperm(len(near))[:9].tolist()]
                candidates = encode([answer(*pair) for pair in [(deed, thing), *wrong]])
                scores = encoder(candidates) @ encoder(encode([question(deed, thing)]))[0]
                right += int(scores.argmax() == 0)
                total += 1
    return right / total


for epoch in range(1, 101):
    encoder.train()
    epoch_loss = 0.0
    for batch in torch.randperm(len(pairs_train)).split(32):
        asked = [pairs_train[i] for i in batch.tolist()]
        q = encoder(encode([question(*pair) for pair in asked]))
        a = encoder(encode([answer(*pair) for pair in asked]))
        cosine = q @ a.T  # each question with each answer of the batch; the right ones on the diagonal
        too_close = F.relu(margin - cosine.diagonal().unsqueeze(1) + cosine)
        loss = too_close.masked_select(~torch.eye(len(asked), dtype=torch.bool)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        epoch_loss += loss.item() / 5
    if epoch % 20 == 0:
        print(f"epoch {epoch:3}  hinge loss {epoch_loss:.4f}  test accuracy {accuracy_at_1():.3f}")

print(f"test accuracy {accuracy_at_1():.3f}")
