"""The restricted Boltzmann machine, as a module that an ordinary optimizer trains."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wellfit.errors import WellfitError

START = 0.01  # standard deviation of the first weights (Hinton 2012): small, so that units differ but none is saturated


class RBM(nn.Module):
    """A restricted Boltzmann machine: binary visible units v, binary hidden units h, and no links within a layer.

    It gives every state an energy, and the state a probability that falls with it:

        energy        E(v, h) = -v·b - h·c - vWh
        probability   p(v, h) = exp(-E(v, h)) / Z

    Without links within a layer each layer is independent given the other, and the hidden one can be summed out:

        p(h_j = 1 | v) = sigmoid(c + vW)_j        p(v_i = 1 | h) = sigmoid(b + Wh)_i
        free energy    F(v) = -log sum_h exp(-E(v, h)) = -v·b - sum_j softplus(c + vW)_j

    The gradient of -log p(v) is that of F(v) - E[F(v')], with v' drawn from the model. Contrastive divergence (CD-k)
    takes for v' what k steps of Gibbs sampling make of the data, and counts it as a constant. So
    `contrastive_divergence` gives a number whose `backward()` leaves the CD-k gradient, and any optimizer can take the
    step. With `chains` the sampling goes on from where it stopped at the last call (persistent CD): slower to follow,
    but nearer to the model.

    The number itself is no measure of success: it is a difference of two free energies and need not fall. Watch the
    error of `reconstruct`, or better the `pseudo_likelihood`.

    Args:
        visible: number of visible units, V.
        hidden: number of hidden units, H.
        steps: Gibbs steps for each gradient, the k of CD-k. 1 learns good features; 10 and more learn a better model.
        chains: number of chains that live on between calls; 0 starts each call at the data.

    Attributes:
        weight: W, of shape (V, H).
        visible_bias: b, of shape (V,). A good start is `log(p / (1 - p))` for units that are on with frequency p.
        hidden_bias: c, of shape (H,).
        chain: with `chains`, the visible states of the chains, of shape (chains, V); a buffer.

    Raises:
        WellfitError: a size is below 1; and in all methods, an input whose last axis has not the units of its layer, or
            data outside [0, 1].

    Example:
        >>> import torch
        >>> from wellfit.nn import RBM
        >>> _ = torch.manual_seed(0)
        >>> data = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]]).repeat(50, 1)
        >>> rbm = RBM(visible=4, hidden=8)
        >>> optimizer = torch.optim.SGD(rbm.parameters(), lr=0.3)
        >>> before = rbm.pseudo_likelihood(data).mean()
        >>> for _ in range(500):
        ...     optimizer.zero_grad()
        ...     rbm.contrastive_divergence(data).backward()
        ...     optimizer.step()
        >>> bool(rbm.pseudo_likelihood(data).mean() > before + 1)
        True
        >>> rbm(data).shape  # features: the probabilities of the hidden units
        torch.Size([100, 8])

    References:
        Smolensky 1986, "Information processing in dynamical systems: foundations of harmony theory"; Hinton 2002,
        "Training products of experts by minimizing contrastive divergence"; Tieleman 2008, "Training restricted
        Boltzmann machines using approximations to the likelihood gradient"; Hinton 2012, "A practical guide to training
        restricted Boltzmann machines".
    """

    chain: Tensor

    def __init__(self, visible: int, hidden: int, steps: int = 1, chains: int = 0) -> None:
        super().__init__()
        for name, size, least in (
            ("visible", visible, 1),
            ("hidden", hidden, 1),
            ("steps", steps, 1),
            ("chains", chains, 0),
        ):
            if size < least:
                raise WellfitError(f"RBM: {name} is {size}: give it {least} or more")
        self.visible = visible
        self.hidden = hidden
        self.steps = steps
        self.weight = nn.Parameter(START * torch.randn(visible, hidden))
        self.visible_bias = nn.Parameter(torch.zeros(visible))
        self.hidden_bias = nn.Parameter(torch.zeros(hidden))
        self.register_buffer("chain", torch.rand(chains, visible).round())

    def extra_repr(self) -> str:
        return f"visible={self.visible}, hidden={self.hidden}, steps={self.steps}, chains={len(self.chain)}"

    def forward(self, visible: Tensor) -> Tensor:
        """The features of the data: p(h = 1 | v), from (..., V) to (..., H). The same as `hidden_probability`."""
        return self.hidden_probability(visible)

    def hidden_probability(self, visible: Tensor) -> Tensor:
        """p(h = 1 | v) = sigmoid(c + vW), from (..., V) to (..., H)."""
        return torch.sigmoid(self._hidden_input(visible))

    def visible_probability(self, hidden: Tensor) -> Tensor:
        """p(v = 1 | h) = sigmoid(b + Wh), from (..., H) to (..., V)."""
        self._check(hidden, self.hidden, "hidden")
        return torch.sigmoid(F.linear(hidden, self.weight, self.visible_bias))

    def energy(self, visible: Tensor, hidden: Tensor) -> Tensor:
        """E(v, h) = -v·b - h·c - vWh, from (..., V) and (..., H) to (...)."""
        self._check(hidden, self.hidden, "hidden")
        return -visible @ self.visible_bias - (hidden * self._hidden_input(visible)).sum(-1)

    def free_energy(self, visible: Tensor) -> Tensor:
        """F(v) = -v·b - sum_j softplus(c + vW)_j, from (..., V) to (...): minus the log of the unnormalised p(v)."""
        return -visible @ self.visible_bias - F.softplus(self._hidden_input(visible)).sum(-1)

    @torch.no_grad()
    def gibbs(self, visible: Tensor, steps: int | None = None) -> Tensor:
        """Draw the hidden units given the visible ones, then the visible ones given those, `steps` times.

        Args:
            visible: where the chains start, of shape (..., V).
            steps: times; None is the `steps` of the RBM.

        Returns:
            the visible states at the end, 0 or 1, of shape (..., V).
        """
        for _ in range(self.steps if steps is None else steps):
            hidden = torch.bernoulli(self.hidden_probability(visible))
            visible = torch.bernoulli(self.visible_probability(hidden))
        return visible

    def contrastive_divergence(self, visible: Tensor) -> Tensor:
        """The mean free energy of the data minus that of the samples: `backward()` leaves the CD-k gradient.

        With `chains` the samples are the chains, which this call moves on by `steps`; else they start at the data.

        Args:
            visible: a batch of data in [0, 1], of shape (N, V); a number between is taken as a probability.

        Returns:
            a scalar; falling is not its aim, see above.

        Raises:
            WellfitError: `visible` has another shape, or numbers outside [0, 1].
        """
        self._check_data(visible)
        if len(self.chain):
            samples = self.gibbs(self.chain)
            self.chain.copy_(samples)
        else:
            samples = self.gibbs(visible)
        return self.free_energy(visible).mean() - self.free_energy(samples).mean()

    def reconstruct(self, visible: Tensor) -> Tensor:
        """The data seen through the hidden units once, without drawing: p(v = 1 | h = p(h = 1 | v)), (..., V)."""
        return self.visible_probability(self.hidden_probability(visible))

    def pseudo_likelihood(self, visible: Tensor) -> Tensor:
        """How well each unit is told by all others: sum_i log p(v_i | the rest), exact, from (N, V) to (N,).

        p(v_i | the rest) = sigmoid(F(v with v_i flipped) - F(v)), so no Z is needed. V free energies a row.

        Args:
            visible: binary data, of shape (N, V).

        Returns:
            nats, of shape (N,): at most 0, and -V log 2 for guessing.

        Raises:
            WellfitError: `visible` has another shape, or numbers outside [0, 1].
        """
        self._check_data(visible)
        free = self.free_energy(visible)
        total = torch.zeros_like(free)
        for unit in range(self.visible):
            flipped = visible.clone()
            flipped[:, unit] = 1 - flipped[:, unit]
            total = total + F.logsigmoid(self.free_energy(flipped) - free)
        return total

    def _hidden_input(self, visible: Tensor) -> Tensor:
        """c + vW."""
        self._check(visible, self.visible, "visible")
        return F.linear(visible, self.weight.T, self.hidden_bias)

    def _check(self, states: Tensor, units: int, layer: str) -> None:
        """The last axis must be the units of a layer."""
        if not states.is_floating_point():
            raise WellfitError(
                f"RBM: {layer} states are {states.dtype}: give floating-point numbers, such as x.float()"
            )
        if states.dim() < 1 or states.shape[-1] != units:
            raise WellfitError(
                f"RBM: {layer} states have the shape {tuple(states.shape)}, but the last axis must be the {units} "
                f"{layer} units: flatten images with x.flatten(1)"
            )

    def _check_data(self, visible: Tensor) -> None:
        """A batch of rows, in [0, 1]: elsewhere the free energy has no lower bound and training runs away."""
        self._check(visible, self.visible, "visible")
        if visible.dim() != 2 or not len(visible):
            raise WellfitError(
                f"RBM: the data have the shape {tuple(visible.shape)}: give a batch of rows (N, {self.visible}), "
                "N at least 1"
            )
        low, high = (float(end) for end in torch.aminmax(visible.detach()))
        if not (low >= 0 and high <= 1):
            raise WellfitError(
                f"RBM: the data go from {low:.4g} to {high:.4g}, but its units are 0, 1 or a probability between: "
                "scale them into [0, 1] instead of standardising them"
            )
