"""Small models in the ways people write them, for the tests of `wellfit slim`, each with an example of its inputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

Example = tuple[Any, ...]


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(12, 16), nn.Linear(16, 10), nn.Linear(10, 3)

    def forward(self, x):
        return self.fc3(torch.tanh(self.fc2(F.relu(self.fc1(x.flatten(1))))))


class LeNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5), nn.Conv2d(6, 8, 5)
        self.fc1, self.fc2 = nn.Linear(8 * 16, 20), nn.Linear(20, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return F.log_softmax(self.fc2(F.relu(self.fc1(torch.flatten(x, 1)))), dim=1)


class LeNetLiteral(LeNet):
    """The size after flattening stands in the code."""

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc2(F.relu(self.fc1(x.view(-1, 128))))


class LeNetSized(LeNet):
    """The size after flattening is an attribute."""

    def __init__(self):
        super().__init__()
        self.flat = 128

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc2(F.relu(self.fc1(x.view(-1, self.flat))))


def vgg():
    layers, width = [], 3
    for out in (8, 8, "M", 12, 12, "M"):
        if out == "M":
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [nn.Conv2d(width, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU(inplace=True)]
            width = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.5), nn.Linear(48, 5))


class Basic(nn.Module):
    def __init__(self, width, out, stride, option):
        super().__init__()
        self.conv1 = nn.Conv2d(width, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.option, self.added = option, out - width
        if width == out:
            self.shortcut = nn.Sequential()
        elif option == "B":
            self.shortcut = nn.Sequential(nn.Conv2d(width, out, 1, stride, bias=False), nn.BatchNorm2d(out))
        else:
            self.shortcut = None

    def forward(self, x):
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.shortcut is None:
            half = self.added // 2
            return F.relu(out + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, half, half)))
        return F.relu(out + self.shortcut(x))


class ResNet20(nn.Module):
    def __init__(self, option):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8)
        blocks, width = [], 8
        for out, stride in ((8, 1), (16, 2), (32, 2)):
            for number in range(3):
                blocks.append(Basic(width, out, stride if number == 0 else 1, option))
                width = out
        self.layers, self.linear = nn.Sequential(*blocks), nn.Linear(32, 10)

    def forward(self, x):
        x = self.layers(F.relu(self.bn1(self.conv1(x))))
        return self.linear(F.avg_pool2d(x, x.size()[3]).view(x.size(0), -1))


class Dense(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(8 + 4 * n) for n in range(3))
        self.convs = nn.ModuleList(nn.Conv2d(8 + 4 * n, 4, 3, padding=1) for n in range(3))
        self.head = nn.Linear(20, 3)

    def forward(self, x):
        features = [self.stem(x)]
        for norm, conv in zip(self.norms, self.convs):
            features.append(conv(F.relu(norm(torch.cat(features, 1)))))
        return self.head(torch.cat(features, 1).mean((2, 3)))


def separable():
    def block(width, out):
        return [
            nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU6(),
            nn.Conv2d(width, out, 1, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU6(),
        ]

    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), *block(8, 16), *block(16, 16), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(16, 4),
    )  # fmt: skip


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down1, self.down2 = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 12, 3, padding=1)
        self.up = nn.ConvTranspose2d(12, 6, 2, stride=2)
        self.join, self.out = nn.Conv2d(14, 8, 3, padding=1), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        high = F.relu(self.down1(x))
        low = F.relu(self.down2(F.max_pool2d(high, 2)))
        return self.out(F.leaky_relu(self.join(torch.cat([self.up(low), high], 1))))


class LstmClassifier(nn.Module):
    def __init__(self, kind=nn.LSTM, layers=2, both=True):
        super().__init__()
        self.embed = nn.Embedding(20, 6)
        self.rnn = kind(6, 8, layers, batch_first=True, bidirectional=both)
        self.head = nn.Linear(16 if both else 8, 3)

    def forward(self, tokens):
        return self.head(self.rnn(self.embed(tokens))[0][:, -1])


class LstmByState(nn.Module):
    """Makes its own first state, and uses the last one."""

    def __init__(self):
        super().__init__()
        self.hidden_size = 8
        self.lstm, self.head = nn.LSTM(5, 8), nn.Linear(8, 2)

    def forward(self, x):
        state = torch.zeros(1, x.size(1), self.hidden_size), torch.zeros(1, x.size(1), self.hidden_size)
        return self.head(self.lstm(x, state)[1][0].squeeze(0))


class CellLoop(nn.Module):
    """An LSTM written by hand."""

    def __init__(self):
        super().__init__()
        self.hidden = 8
        self.x2h, self.h2h = nn.Linear(5, 32), nn.Linear(8, 32, bias=False)
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        h = c = x.new_zeros(x.size(0), self.hidden)
        for step in range(x.size(1)):
            i, f, g, o = (self.x2h(x[:, step]) + self.h2h(h)).chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
        return self.head(h)


class Encoder(nn.Module):
    def __init__(self, batch_first=True):
        super().__init__()
        self.batch_first = batch_first
        self.embed = nn.Embedding(20, 16)
        self.place = nn.Parameter(torch.randn(7, 16) * 0.1)
        layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=batch_first, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 3)

    def forward(self, tokens):
        x = self.embed(tokens) + self.place
        if not self.batch_first:
            x = x.transpose(0, 1)
        return self.head(self.encoder(x).mean(1 if self.batch_first else 0))


class Attention(nn.Module):
    """Causal attention with its own sizes: `style` says how the code finds them."""

    def __init__(self, width=16, heads=4, style="packed"):
        super().__init__()
        self.n_head, self.head_dim, self.style = heads, width // heads, style
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x):
        b, t, c = x.shape
        if self.style == "packed":  # as in timm
            q, k, v = self.qkv(x).reshape(b, t, 3, self.n_head, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        elif self.style == "chunk":
            q, k, v = (part.view(b, t, self.n_head, -1).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        else:  # as in nanoGPT
            split = self.qkv(x).split(c, dim=2)
            q, k, v = (part.view(b, t, self.n_head, c // self.n_head).transpose(1, 2) for part in split)
        scores = q @ k.transpose(-2, -1) / math.sqrt(self.head_dim)
        scores = scores.masked_fill(torch.ones(t, t).tril() == 0, float("-inf"))
        y = (scores.softmax(-1) @ v).transpose(1, 2).contiguous()
        return self.proj(y.view(b, t, c) if self.style == "nano" else y.flatten(2))


class Gpt(nn.Module):
    def __init__(self, style="packed"):
        super().__init__()
        self.tokens, self.places = nn.Embedding(20, 16), nn.Embedding(8, 16)
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "ln1": nn.LayerNorm(16),
                    "attention": Attention(style=style),
                    "ln2": nn.LayerNorm(16),
                    "mlp": nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16)),
                }
            )
            for _ in range(2)
        )
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 20, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, tokens):
        x = self.tokens(tokens) + self.places(torch.arange(tokens.size(1)))
        for block in self.blocks:
            x = x + block["attention"](block["ln1"](x))
            x = x + block["mlp"](block["ln2"](x))
        return self.head(self.norm(x))


class GroupedQuery(nn.Module):
    """Four heads of queries, two of keys and values, with rotated places and torch's own attention function."""

    def __init__(self):
        super().__init__()
        self.heads, self.key_heads, self.head_dim = 4, 2, 4
        self.q, self.k, self.v = nn.Linear(12, 16, False), nn.Linear(12, 8, False), nn.Linear(12, 8, False)
        self.o, self.norm = nn.Linear(16, 12, False), nn.RMSNorm(12)
        self.gate, self.up, self.down = nn.Linear(12, 20), nn.Linear(12, 20), nn.Linear(20, 12)
        self.out = nn.Linear(12, 3)

    def rotated(self, x):
        angle = torch.arange(x.size(2))[:, None] / 10 ** torch.arange(self.head_dim // 2)
        angle = torch.cat([angle, angle], -1)
        one, two = x.chunk(2, -1)
        return x * angle.cos() + torch.cat([-two, one], -1) * angle.sin()

    def forward(self, x):
        b, t, _ = x.shape
        y = self.norm(x)
        q = self.rotated(self.q(y).view(b, t, self.heads, self.head_dim).transpose(1, 2))
        k = self.rotated(self.k(y).view(b, t, self.key_heads, self.head_dim).transpose(1, 2))
        v = self.v(y).view(b, t, self.key_heads, self.head_dim).transpose(1, 2)
        k, v = (part.repeat_interleave(self.heads // self.key_heads, 1) for part in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, t, -1)
        x = x + self.o(y)
        return self.out(x + self.down(F.silu(self.gate(x)) * self.up(x)))


class TwoOutputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(4, 8), nn.Linear(6, 8)
        self.trunk = nn.Linear(8, 8)
        self.label, self.score = nn.Linear(8, 3), nn.Linear(8, 1)

    def forward(self, a, *, b):
        mixed = F.relu(self.left(a) * self.right(b))
        mixed = F.relu(self.trunk(self.trunk(mixed)))  # called twice
        return {
            "label": self.label(mixed),
            "rest": (self.score(mixed).squeeze(-1), [a.sum(-1), "as said"]),
        }


class Shared(nn.Module):
    """A module under two names, and a weight under two more."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.body = nn.Linear(8, 8)
        self.again = self.body
        self.third = nn.Linear(8, 8, bias=False)
        self.third.weight = self.body.weight
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        return self.head(F.relu(self.third(F.relu(self.again(F.relu(self.body(F.relu(self.first(x)))))))))


def grouped():
    return nn.Sequential(
        nn.Conv2d(3, 16, 1), nn.GroupNorm(4, 16), nn.SiLU(), nn.Conv2d(16, 24, 3, groups=4), nn.PReLU(24),
        nn.GroupNorm(1, 24), nn.ConvTranspose2d(24, 8, 2, groups=4), nn.InstanceNorm2d(8, affine=True),
        nn.Conv2d(8, 2, 1),
    )  # fmt: skip


class SqueezeExcite(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.down, self.up = nn.Conv2d(3, 12, 3), nn.Conv2d(12, 4, 1), nn.Conv2d(4, 12, 1)
        self.head = nn.Linear(12, 2)

    def forward(self, x):
        x = F.relu(self.conv(x))
        gate = torch.sigmoid(self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1)))))
        return self.head((x * gate).mean((-1, -2)))


def autoencoder():
    return nn.Sequential(
        nn.Linear(10, 32), nn.ReLU(), nn.Unflatten(1, (8, 2, 2)), nn.ConvTranspose2d(8, 4, 2, 2), nn.ReLU(),
        nn.Conv2d(4, 1, 1),
    )  # fmt: skip


class Gated(nn.Module):
    """Gated convolutions over time, as in WaveNet, and GLU."""

    def __init__(self):
        super().__init__()
        self.start = nn.Conv1d(2, 8, 1)
        self.filters, self.gates = nn.Conv1d(8, 8, 2, dilation=2), nn.Conv1d(8, 8, 2, dilation=2)
        self.wide, self.end = nn.Conv1d(8, 12, 1), nn.Conv1d(6, 1, 1)

    def forward(self, x):
        x = self.start(x)
        y = torch.tanh(self.filters(x)) * torch.sigmoid(self.gates(x))
        return self.end(F.glu(self.wide(x[..., 2:] + y), dim=1))


class HandNorm(nn.Module):
    """A norm over channels written by hand, and a learned mean over them."""

    def __init__(self):
        super().__init__()
        self.start, self.end = nn.Linear(5, 12), nn.Linear(12, 2)
        self.scale = nn.Parameter(torch.rand(12) + 0.5)

    def forward(self, x):
        x = self.start(x)
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
        return self.end(x * self.scale)


class Shuffled(nn.Module):
    """Channels are shuffled between groups, by numbers in the code."""

    def __init__(self):
        super().__init__()
        self.start = nn.Conv2d(3, 12, 1)
        self.middle = nn.Conv2d(12, 12, 3, groups=3)
        self.end = nn.Conv2d(12, 2, 1)

    def forward(self, x):
        x = self.middle(self.start(x))
        n, _, h, w = x.shape
        return self.end(x.view(n, 3, 4, h, w).transpose(1, 2).reshape(n, 12, h, w))


class Plain3d(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.n, self.b = nn.Conv3d(1, 6, 2), nn.BatchNorm3d(6), nn.Conv3d(6, 4, 2)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        x = F.avg_pool3d(F.elu(self.n(self.a(x))), 2)
        return self.head(self.b(x).amax((2, 3, 4)))


class Crossed(nn.Module):
    """Attention from one sequence to another of another width, with a mask of padding."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(5, 12)
        self.attention = nn.MultiheadAttention(12, 3, kdim=6, vdim=6, batch_first=True)
        self.out = nn.Linear(12, 2)

    def forward(self, x, memory, padding):
        y, weights = self.attention(self.embed(x), memory, memory, key_padding_mask=padding)
        return self.out(y), weights


class Factors(nn.Module):
    """Users and items, as recommenders have them."""

    def __init__(self):
        super().__init__()
        self.users, self.items = nn.Embedding(9, 8), nn.Embedding(7, 8)

    def forward(self, user, item):
        return (F.normalize(self.users(user), dim=-1) * self.items(item)).sum(-1)


class Vision(nn.Module):
    """A transformer over patches, with a token of its own and heads found by width // heads."""

    def __init__(self):
        super().__init__()
        self.patches, self.heads = nn.Conv2d(3, 16, 4, 4), 4
        self.token, self.places = nn.Parameter(torch.randn(1, 1, 16)), nn.Parameter(torch.randn(1, 5, 16))
        self.norm, self.qkv, self.proj = nn.LayerNorm(16), nn.Linear(16, 48), nn.Linear(16, 16)
        self.scale, self.head = nn.Parameter(torch.rand(16)), nn.Linear(16, 3)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.places
        b, n, c = x.shape
        qkv = self.qkv(self.norm(x)).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2]).transpose(1, 2).flatten(2)
        return self.head((x + self.scale * self.proj(y))[:, 0])


class Packed(nn.Module):
    """Sequences of several lengths, and a projection of the state."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(9, 6, padding_idx=0)
        self.rnn, self.head = nn.LSTM(6, 8, proj_size=5, num_layers=2), nn.Linear(5, 2)

    def forward(self, x, lengths):
        packed = nn.utils.rnn.pack_padded_sequence(self.embed(x), lengths, enforce_sorted=False)
        out, (state, _) = self.rnn(packed)
        return self.head(state[-1]), self.head(nn.utils.rnn.pad_packed_sequence(out)[0])


class Cells(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two, self.head = nn.LSTMCell(3, 8), nn.GRUCell(8, 6), nn.Linear(6, 2)

    def forward(self, x):
        state = other = None
        for step in range(x.shape[1]):
            state = self.one(x[:, step], state)
            other = self.two(state[0], other)
        return self.head(other)


def images(channels=3, size=8):
    return torch.randn(2, channels, size, size)


def tokens(length=7):
    return torch.randint(0, 20, (3, length))


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any]]] = {
    "mlp": (Mlp, lambda: images(3, 2)),
    "lenet": (LeNet, lambda: images(1, 28)),
    "lenet-sized": (LeNetSized, lambda: images(1, 28)),
    "vgg": (vgg, images),
    "resnet-a": (lambda: ResNet20("A"), images),
    "resnet-b": (lambda: ResNet20("B"), images),
    "dense": (Dense, images),
    "separable": (separable, images),
    "unet": (UNet, lambda: images(1)),
    "lstm": (LstmClassifier, tokens),
    "gru": (lambda: LstmClassifier(nn.GRU, 1, False), tokens),
    "rnn": (lambda: LstmClassifier(nn.RNN, 2, True), tokens),
    "lstm-state": (LstmByState, lambda: torch.randn(4, 3, 5)),
    "cell-loop": (CellLoop, lambda: torch.randn(3, 4, 5)),
    "encoder": (Encoder, tokens),
    "encoder-time-first": (lambda: Encoder(False), tokens),
    "gpt-packed": (Gpt, tokens),
    "gpt-chunk": (lambda: Gpt("chunk"), tokens),
    "gpt-nano": (lambda: Gpt("nano"), tokens),
    "grouped-query": (GroupedQuery, lambda: torch.randn(2, 5, 12)),
    "two-outputs": (TwoOutputs, lambda: {"a": torch.randn(3, 4), "b": torch.randn(3, 6)}),
    "shared": (Shared, lambda: torch.randn(3, 6)),
    "grouped": (grouped, images),
    "squeeze-excite": (SqueezeExcite, images),
    "autoencoder": (autoencoder, lambda: torch.randn(3, 10)),
    "gated": (Gated, lambda: torch.randn(2, 2, 9)),
    "hand-norm": (HandNorm, lambda: torch.randn(3, 5)),
    "conv3d": (Plain3d, lambda: torch.randn(2, 1, 6, 6, 6)),
    "factors": (Factors, lambda: (torch.tensor([1, 2, 5]), torch.tensor([0, 3, 4]))),
    "vision": (Vision, images),
    "packed": (Packed, lambda: (torch.randint(1, 9, (5, 3)), torch.tensor([5, 3, 2]))),
    "cells": (Cells, lambda: torch.randn(2, 3, 3)),
    "crossed": (
        Crossed,
        lambda: (torch.randn(2, 3, 5), torch.randn(2, 4, 6), torch.tensor([[False] * 4, [False] * 3 + [True]])),
    ),
}


def made(name: str) -> tuple[nn.Module, Any]:
    """A model with statistics and scales that are not those of the start, and an example of its inputs."""
    torch.manual_seed(0)
    model, example = MODELS[name][0](), MODELS[name][1]()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
        if isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
    return model, example
