"""Style transfer: a photograph painted anew in the colours and textures of another one.

    wellfit run examples/style_transfer.py
    wellfit run examples/style_transfer.py picture.png     the same, and keeps the picture

What is learned here is an image. A convolutional network looks at it: deep features should be those of the content (a
Chinese temple), and the correlations between the features of a layer, its Gram matrix, those of the style (the petals
of a dahlia). The network stays as it is. If VGG-19's weights lie in torch.hub's cache they are used, as in the paper;
otherwise a small network first learns from patches of the two photographs to tell which way up they are (S. Gidaris
et al. 2018, Unsupervised representation learning by predicting image rotations). Colours and strokes of the dahlia come
over with it, but not the shape of its petals. The ratio says how much of the style was missing.
(L. A. Gatys, A. S. Ecker, M. Bethge 2016, Image style transfer using convolutional neural networks.)

Reaches: style loss ratio 0.0158 in 15 s.
"""

import os
import sys

import torch
import torch.nn.functional as F
from torch import nn

try:
    from PIL import Image
    from sklearn.datasets import load_sample_image
except ImportError:
    raise SystemExit(
        'examples/style_transfer.py needs scikit-learn and pillow: pip install "wellfit[examples]"'
    ) from None

torch.manual_seed(0)
STYLE_WEIGHT = 5  # beside 1 for the content: the more, the less is left of the temple
SMOOTH_WEIGHT = 10  # a picture that only the network has to like is full of fine noise


def photograph(name, top, left, side):
    """A square of the photograph, 96 by 96, as (1, 3, height, width) in 0..1."""
    pixels = torch.tensor(load_sample_image(name)).permute(2, 0, 1)[None] / 255
    return F.interpolate(pixels[:, :, top : top + side, left : left + side], size=(96, 96), mode="area")


content = photograph("china.jpg", 0, 100, 427)
style = photograph("flower.jpg", 95, 175, 250)  # nothing but petals
mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)  # of ImageNet, which VGG was trained on
std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


def small_network():
    """Four blocks that look at ever larger parts of the image, taught to see which way up a patch is."""
    layers, channels = [], 3
    for width in (24, 32, 48, 64):
        layers += [
            nn.Conv2d(channels, width, 3, padding=1, padding_mode="reflect"),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.AvgPool2d(2),
        ]
        channels = width
    features = nn.Sequential(*layers)
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 4))
    optimizer = torch.optim.AdamW([*features.parameters(), *head.parameters()], lr=2e-3)

    photographs = (torch.cat([content, style]) - mean) / std
    for step in range(1, 201):
        patches, turns = [], torch.randint(4, (32,))
        for turn in turns.tolist():
            which, top, left = (int(torch.randint(n, ())) for n in (2, 64, 64))
            patch = photographs[which, :, top : top + 32, left : left + 32]
            patches.append(patch.rot90(turn, (1, 2)))
        prediction = head(features(torch.stack(patches)))
        loss = F.cross_entropy(prediction, turns)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 0:
            right = (prediction.argmax(1) == turns).float().mean().item()
            print(f"network step {step:3}  loss {loss.item():.3f}  rotations seen {right:.2f}")
    return features


def vgg19(weights):
    """The layers of VGG-19 up to the last one used here, under the names they have in torchvision's file."""
    layers, channels = [], 3
    for width in (64, 64, "pool", 128, 128, "pool", 256, 256, 256, 256, "pool", 512, 512, 512, 512, "pool", 512):
        if width == "pool":
            layers += [nn.AvgPool2d(2)]  # the paper found that averages look better than maxima
        else:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
    features = nn.Sequential(*layers)
    saved = torch.load(weights, weights_only=True)
    features.load_state_dict({name: saved[f"features.{name}"] for name in features.state_dict()})
    return features


weights = os.path.join(torch.hub.get_dir(), "checkpoints", "vgg19-dcbb9e9d.pth")
if os.path.exists(weights):
    network, style_layers, content_layer = vgg19(weights), [1, 6, 11, 20, 29], 22  # relu1_1 ... relu5_1, and relu4_2
else:
    network, style_layers, content_layer = small_network(), [2, 6, 10, 14], 6
network.eval().requires_grad_(False)


def look(image):
    """What the network sees: the output of each layer that matters here."""
    x, seen = (image - mean) / std, {}
    for i, layer in enumerate(network):
        x = layer(x)
        if i in style_layers or i == content_layer:
            seen[i] = x
    return seen


def gram(features):
    """Which features occur together, wherever in the image that is."""
    maps = features.flatten(2)
    return maps @ maps.mT / maps.shape[2]


wanted_content = look(content)[content_layer]
wanted_style = {layer: gram(look(style)[layer]) for layer in style_layers}
content_size = wanted_content.var()


def losses(image):
    """Content and style, each as a share of what is there to be reached, so that no layer outweighs the others."""
    seen = look(image)
    content_loss = F.mse_loss(seen[content_layer], wanted_content) / content_size
    style_loss = sum(F.mse_loss(gram(seen[i]), wanted_style[i]) / wanted_style[i].square().mean() for i in style_layers)
    return content_loss, style_loss / len(style_layers)


with torch.no_grad():
    _, style_before = losses(content)
    other_content, _ = losses(style)
print(f"style loss of the temple {style_before.item():.3f}, content loss of the dahlia {other_content.item():.3f}")


def roughness(image):
    """How much neighbouring pixels differ."""
    return image.diff(dim=2).square().mean() + image.diff(dim=3).square().mean()


image = content.clone().requires_grad_()
optimizer = torch.optim.LBFGS([image], lr=1, max_iter=5, line_search_fn="strong_wolfe")


def closure():
    """The loss and its gradient: LBFGS asks for them several times in a step."""
    optimizer.zero_grad()
    content_loss, style_loss = losses(image)
    loss = content_loss + STYLE_WEIGHT * style_loss + SMOOTH_WEIGHT * roughness(image)
    loss.backward()
    return loss


for step in range(1, 21):
    optimizer.step(closure)
    if step % 4 == 0:
        with torch.no_grad():
            content_loss, style_loss = losses(image)
        print(f"image step {step:2}  content loss {content_loss.item():.3f}  style loss {style_loss.item():.4f}")

if len(sys.argv) > 1:
    picture = torch.cat([content, style, image.detach()], dim=3)[0].clamp(0, 1)
    pixels = (picture * 255).round().byte().permute(1, 2, 0).contiguous()
    Image.frombytes("RGB", (pixels.shape[1], pixels.shape[0]), bytes(pixels.flatten().tolist())).save(sys.argv[1])
print(f"style loss ratio {(style_loss / style_before).item():.4f}")
