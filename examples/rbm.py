"""A restricted Boltzmann machine that dreams of digits: learning without labels and without backpropagation.

    wellfit run examples/rbm.py

Each picture is one state of 64 visible units; 100 hidden units look for what goes together. One step of contrastive
divergence lowers the energy of the data and raises that of what the machine makes of them a moment later, until it no
longer wants to change them. Momentum, rate, weight decay and start are those of Hinton's practical guide.
(Smolensky 1986; Hinton 2002, "Training products of experts by minimizing contrastive divergence".)
With WELLFIT_DATA set it learns MNIST with 256 hidden units instead of scikit-learn's 8x8 digits.

The error is the squared distance of the test digits to what is left of them after one look through the hidden units,
divided by that of the mean digit: 1 is no better than knowing the mean; lower is better. The loss itself says little.

Reaches: test reconstruction error 0.242 in 11 s.
"""

import os

import torch
from torch.utils.data import DataLoader, TensorDataset

from wellfit.nn import RBM

torch.manual_seed(0)

if "WELLFIT_DATA" in os.environ:
    import numpy as np

    mnist = np.load(os.path.join(os.environ["WELLFIT_DATA"], "mnist.npz"))
    train = torch.tensor(mnist["x_train"][:20000]).flatten(1) / 255
    test = torch.tensor(mnist["x_test"]).flatten(1) / 255
    hidden, epochs = 256, 6
else:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise SystemExit('examples/rbm.py needs scikit-learn: pip install "wellfit[examples]"') from None

    pixels = torch.tensor(load_digits().data / 16).float()
    train, test = pixels[:1400], pixels[1400:]
    hidden, epochs = 100, 60

rbm = RBM(visible=train.shape[1], hidden=hidden)
mean = train.mean(0)
with torch.no_grad():  # a pixel's bias begins where it explains how often the pixel is on
    rbm.visible_bias.copy_(torch.logit(mean.clamp(0.01, 0.99)))

optimizer = torch.optim.SGD(
    [{"params": [rbm.weight], "weight_decay": 2e-4}, {"params": [rbm.visible_bias, rbm.hidden_bias]}],
    lr=0.05,
    momentum=0.5,
)
loader = DataLoader(TensorDataset(train), batch_size=20 if len(train) < 5000 else 50, shuffle=True)


def reconstruction_error():
    rbm.eval()
    with torch.no_grad():
        error = (rbm.reconstruct(test) - test).square().mean() / (mean - test).square().mean()
    rbm.train()
    return error.item()


for epoch in range(1, epochs + 1):
    if epoch == 1 + epochs // 10:
        for group in optimizer.param_groups:
            group["momentum"] = 0.9  # once the first, steep progress is made
    for (batch,) in loader:
        loss = rbm.contrastive_divergence(torch.bernoulli(batch))  # a grey pixel is on with this probability
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    if epoch % (epochs // 6) == 0:
        with torch.no_grad():
            bits = rbm.pseudo_likelihood(test[:500].round()).mean() / test.shape[1]
        print(
            f"epoch {epoch:2}  reconstruction error {reconstruction_error():.3f}  pseudo-likelihood {bits:.3f} a pixel"
        )

print(f"test reconstruction error {reconstruction_error():.3f}")
