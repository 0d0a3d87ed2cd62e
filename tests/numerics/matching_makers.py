"""Small gradient-matching problems and the slow obvious twin: whole-batch double backward."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy, relu

from mithridate.numerics.directional import loss_gradient, prepare
from mithridate.numerics.matching import Matcher, criterion_loss
from mithridate.numerics.matching_problem import MatchingProblem, Surrogate
from mithridate.numerics.rng import generator


class Residual(nn.Module):
    """Convolution, a residual block, a head; with norms unless told otherwise."""

    def __init__(self, width=6, num_classes=4):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(3))
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2))
        self.head = nn.Linear(width, num_classes)

    def forward(self, x):
        x = relu(self.norms[0](self.stem(x)))
        y = relu(self.norms[1](self.convs[0](x)))
        return self.head(relu(self.norms[2](self.convs[1](y)) + x).mean((2, 3)))


def network(*, seed=0, dtype=torch.float64, make=Residual):
    net = make()
    gen = generator(seed, "net")
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=gen) * (0.3 if p.ndim == 1 else p[0].numel() ** -0.5))
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.add_(1)
                module.running_mean.copy_(0.3 * torch.randn(module.num_features, generator=gen))
                module.running_var.copy_(0.5 + torch.rand(module.num_features, generator=gen))
    return net.to(dtype).eval()


def pixels(n, *, size=8, seed=0):
    return torch.randint(0, 256, (n, 3, size, size), generator=generator(seed, "pixels"), dtype=torch.uint8)


def labels_of(n, *, seed=0):
    return torch.randint(4, (n,), generator=generator(seed, "labels"))


def surrogate(
    net, targets, *, form="reverse-over-forward", per_target=False, objective="similarity", fold=True, **options
):
    """`targets` is a pair of images in [0, 1] and adversarial labels."""
    x, y = targets
    ready = prepare(net, x[:1], fold=fold, **options)
    groups = [slice(k, k + 1) for k in range(len(x))] if per_target else [slice(None)]
    wanted = [
        ready.pull(loss_gradient(ready, x[g], criterion_loss("cross-entropy", adversarial=y[g], true=y[g]))[1])
        for g in groups
    ]
    matchers = tuple(Matcher(objective=objective, target=t, sizes=ready.sizes) for t in wanted)
    return Surrogate(network=ready, matchers=matchers, form=form)


def problem(surrogates, base, labels, *, epsilon=0.1, augment=None, chunk=4, loss_weight=0.0):
    fill = torch.full((base.shape[1],), 0.4, dtype=surrogates[0].network.dtype)
    return MatchingProblem(
        surrogates=tuple(surrogates),
        base=base,
        labels=labels,
        epsilon=epsilon,
        augment=augment,
        fill=fill,
        chunk=chunk,
        loss_weight=loss_weight,
    )


def target_batch(n=1, *, size=8, dtype=torch.float64):
    x = pixels(n, size=size, seed=99).to(dtype) / 255
    return x, labels_of(n, seed=99)


def obvious(net, targets, x, labels, *, augment=None, draw=None, fill=None, per_target=False):
    """B and dB/dx of one network: everything in one graph, unfolded, in one batch."""
    parameters = list(net.parameters())

    def flat(loss, **options):
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters, **options)])

    x = x.detach().requires_grad_()
    seen = x if augment is None else augment.apply(x, draw, fill)
    ours = flat(cross_entropy(net(seen), labels), create_graph=True)
    groups = [slice(k, k + 1) for k in range(len(targets[0]))] if per_target else [slice(None)]
    values = []
    for g in groups:
        wanted = flat(cross_entropy(net(targets[0][g]), targets[1][g]))
        values.append(1 - (wanted @ ours) / (wanted.norm() * ours.norm()))
    value = torch.stack(values).mean()
    return value.detach(), torch.autograd.grad(value, x)[0]
