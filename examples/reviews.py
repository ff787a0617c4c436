"""Movie reviews for sentiment_cnn.py and sentiment_lstm.py: real ones from a folder, or made by a small grammar."""

import os

import torch

POSITIVE = [
    "good", "great", "funny", "moving", "clever", "wonderful", "charming", "brilliant", "fresh", "gripping", "superb",
]  # fmt: skip
NEGATIVE = [
    "bad", "awful", "boring", "clumsy", "stupid", "terrible", "tedious", "predictable", "stale", "dull", "annoying",
]  # fmt: skip
PARTS = ["plot", "story", "acting", "cast", "script", "dialogue", "music", "camera", "ending", "pace", "hero"]
STRENGTH = {"": 2, "rather": 1, "slightly": 1, "very": 3, "truly": 3, "extremely": 4}
# Neutral, but full of the words that matter elsewhere: "not" and "but" alone say nothing about the review.
NEUTRAL = [
    "i saw it on a sunday", "it does not last two hours", "not that i had read the book", "it is his third film",
    "we did not sit in the first row", "there is nothing but snow in it", "the cinema was not full",
    "it was not made in paris but in rome", "all of it takes place at night", "i went with my sister",
]  # fmt: skip


def pick(choices):
    return choices[int(torch.randint(len(choices), ()))]


def opinion():
    """A clause about one part of the film, and its value: negation turns it, an adverb makes it weaker or stronger."""
    sign = pick([1, -1])
    words = ["the", pick(PARTS), "is"]
    if torch.rand(()) < 0.4:
        words.append(pick(["not", "never", "hardly"]))
        adverb = pick(["", "very", "truly"])
        value = -sign * 2  # "not very good" is no worse than "not good"
    else:
        adverb = pick(list(STRENGTH))
        value = sign * STRENGTH[adverb]
    if adverb:
        words.append(adverb)
    words.append(pick(POSITIVE if sign > 0 else NEGATIVE))
    return " ".join(words), value


def made_reviews(count):
    """`count` reviews of one or two opinions, with neutral remarks between; label 1 where praise outweighs."""
    texts, labels = [], []
    while len(texts) < count:
        opinions = [opinion() for _ in range(int(torch.randint(1, 3, ())))]
        value = sum(value for _, value in opinions)
        if value == 0:
            continue  # undecided
        clauses = [clause for clause, _ in opinions]
        for _ in range(int(torch.randint(3, ()))):
            clauses.insert(int(torch.randint(len(clauses) + 1, ())), pick(NEUTRAL))
        texts.append(" , ".join(clauses) + " .")
        labels.append(int(value > 0))
    return texts, labels


def movie_reviews(folder):
    """The 10662 sentences from movie reviews of Pang & Lee 2005, shuffled; label 1 for praise."""
    texts, labels = [], []
    for label, name in [(0, "mr_polarity.neg.txt"), (1, "mr_polarity.pos.txt")]:
        # The set goes around in UTF-8 and, as it was published, in Latin-1: a byte that is wrong must not stop us.
        with open(os.path.join(folder, name), encoding="utf-8", errors="replace") as file:
            lines = [line.strip() for line in file if line.strip()]
        texts += lines
        labels += [label] * len(lines)
    order = torch.randperm(len(texts)).tolist()
    return [texts[i] for i in order], [labels[i] for i in order]
