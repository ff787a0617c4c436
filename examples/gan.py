"""A generative adversarial network that writes digits: a forger and a detective who learn from each other.

    wellfit run examples/gan.py

The discriminator learns to tell real digits from made ones, the generator to make ones that it takes for real. Neither
loss has to fall: they are a balance of power. What tells how good the forgeries are is a judge who takes no part in
the game: the Fréchet distance compares mean and covariance of its features on made digits and on real ones of the
test set (0 is perfect, 1 is drawing the same mean digit every time; lower is better), and the count of classes shows
whether some digit is never made.
(Goodfellow et al. 2014, "Generative adversarial nets"; Radford, Metz and Chintala 2016, DCGAN; Heusel et al. 2017.)
With WELLFIT_DATA set it learns MNIST, halved to 16x16, instead of scikit-learn's 8x8 digits.

Reaches: relative Frechet distance 0.104 in 17 s.
"""

import os

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)

if "WELLFIT_DATA" in os.environ:
    import numpy as np

    mnist = np.load(os.path.join(os.environ["WELLFIT_DATA"], "mnist.npz"))
    x = torch.tensor(np.concatenate([mnist["x_train"][:6000], mnist["x_test"][:2000]])).unsqueeze(1) / 255
    x = F.avg_pool2d(F.pad(x, (2, 2, 2, 2)), 2)  # 28 -> 32 -> 16
    y = torch.tensor(np.concatenate([mnist["y_train"][:6000], mnist["y_test"][:2000]])).long()
    n_train, epochs = 6000, 10
else:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise SystemExit('examples/gan.py needs scikit-learn: pip install "wellfit[examples]"') from None

    digits = load_digits()
    x, y = torch.tensor(digits.images / 16).float().unsqueeze(1), torch.tensor(digits.target)
    n_train, epochs = 1400, 24

x = 2 * x - 1  # the generator ends in tanh, so ink is 1 and paper is -1
real, test = x[:n_train], x[n_train:]
side = x.shape[-1]
noise = 32

# The judge: random ReLU features, and the classes fitted on top by ridge regression. No training that could go wrong.
weights, shifts = torch.randn(side * side, 128) / side, torch.randn(128)


def features(images):
    return F.relu(images.flatten(1) @ weights + shifts)


known = features(real)
judge = torch.linalg.solve(known.T @ known + torch.eye(128), known.T @ F.one_hot(y[:n_train], 10).float())
right = (features(test) @ judge).argmax(1) == y[n_train:]
print(f"the judge names {100 * right.float().mean():.1f} % of the test digits")


def distance(made):
    """|m1 - m2|^2 + tr(C1 + C2 - 2 sqrt(C1 C2)) of the features of made and test digits, divided by tr C2."""
    one, other = features(made), features(test)
    c1, c2 = torch.cov(one.T), torch.cov(other.T)
    root = torch.linalg.eigvals(c1 @ c2).real.clamp(min=0).sqrt().sum()
    between_means = (one.mean(0) - other.mean(0)).square().sum()
    return ((between_means + c1.trace() + c2.trace() - 2 * root) / c2.trace()).item()


generator = nn.Sequential(
    nn.Linear(noise, 64 * (side // 4) ** 2, bias=False),
    nn.Unflatten(1, (64, side // 4, side // 4)),
    nn.BatchNorm2d(64),
    nn.ReLU(),
    nn.ConvTranspose2d(64, 32, 4, stride=2, padding=1, bias=False),
    nn.BatchNorm2d(32),
    nn.ReLU(),
    nn.ConvTranspose2d(32, 1, 4, stride=2, padding=1),
    nn.Tanh(),
)
discriminator = nn.Sequential(
    nn.Conv2d(1, 32, 4, stride=2, padding=1),
    nn.LeakyReLU(0.2),
    nn.Conv2d(32, 64, 4, stride=2, padding=1, bias=False),
    nn.BatchNorm2d(64),
    nn.LeakyReLU(0.2),
    nn.Flatten(),
    nn.Linear(64 * (side // 4) ** 2, 1),
)

# DCGAN's Adam: momentum 0.5, because the opponent moves too. Rates that fall to 0 let the game come to rest.
generator_optimizer = torch.optim.Adam(generator.parameters(), lr=2e-3, betas=(0.5, 0.999))
discriminator_optimizer = torch.optim.Adam(discriminator.parameters(), lr=2e-3, betas=(0.5, 0.999))
schedules = [
    torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=epochs)
    for optimizer in (generator_optimizer, discriminator_optimizer)
]
bce = nn.BCEWithLogitsLoss()

for epoch in range(1, epochs + 1):
    generator.train()
    for batch in torch.randperm(n_train).split(50):
        true, forged = torch.ones(len(batch), 1), torch.zeros(len(batch), 1)
        fake = generator(torch.randn(len(batch), noise))

        # 0.9 in place of 1 for real digits: a detective who is never quite sure leaves the forger something to learn
        discriminator_loss = bce(discriminator(real[batch]), 0.9 * true) + bce(discriminator(fake.detach()), forged)
        discriminator_optimizer.zero_grad()
        discriminator_loss.backward()
        discriminator_optimizer.step()

        # the non-saturating loss: make "real" likely, rather than "made" unlikely
        generator_loss = bce(discriminator(fake), true)
        generator_optimizer.zero_grad()
        generator_loss.backward()
        generator_optimizer.step()

    for schedule in schedules:
        schedule.step()

    if epoch % (epochs // 4) == 0:
        generator.eval()
        with torch.no_grad():
            made = generator(torch.randn(2000, noise))
            counts = (features(made) @ judge).argmax(1).bincount(minlength=10)
        losses = f"losses {discriminator_loss.item():.2f} and {generator_loss.item():.2f}"
        print(f"epoch {epoch:2}  {losses}  distance {distance(made):.3f}  fewest of a digit {counts.min()} of 2000")

print(f"between real digits of training and test the distance is {distance(real):.3f}")
print(f"relative Frechet distance {distance(made):.3f}")
