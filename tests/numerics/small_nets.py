"""Small networks, their frozen statistics made untrivial, and the slow obvious twins of the fast derivatives."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy, relu, scaled_dot_product_attention

from mithridate.numerics.rng import generator


class Block(nn.Module):
    """A residual block with a strided shortcut."""

    def __init__(self, num_in, num_out, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(num_in, num_out, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(num_out)
        self.conv2 = nn.Conv2d(num_out, num_out, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(num_out)
        self.shortcut = nn.Sequential(nn.Conv2d(num_in, num_out, 1, stride), nn.BatchNorm2d(num_out, affine=False))

    def forward(self, x):
        y = relu(self.norm1(self.conv1(x)))
        return relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class Attention(nn.Module):
    """One attention layer over image rows, with the fused kernel."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(3 * 8, 3 * 16)
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        q, k, v = self.qkv(x.transpose(1, 2).flatten(2)).chunk(3, dim=-1)
        return self.head(self.norm(scaled_dot_product_attention(q, k, v)).mean(1))


def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 24), nn.ReLU(), nn.Linear(24, 4))


def mlp_norm():
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 24), nn.BatchNorm1d(24), nn.GELU(), nn.Linear(24, 4))


def conv_norm():
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(96, 4)
    )


def residual():
    return nn.Sequential(Block(3, 6, 2), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 4))


NETS = {"mlp": mlp, "mlp-norm": mlp_norm, "conv-norm": conv_norm, "residual": residual, "attention": Attention}
WITHOUT_REVERSE_OVER_FORWARD = {"attention"}
"""torch computes the tangent of a softmax in place, which its reverse pass then refuses."""

NORMS = {"mlp": 0, "mlp-norm": 1, "conv-norm": 1, "residual": 3, "attention": 0}


def built(name, *, seed=0, dtype=torch.float64):
    """A network in eval mode with weights and running statistics from a seed."""
    net = (NETS[name] if isinstance(name, str) else name)()
    gen = generator(seed, "net")
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=gen) * (0.5 if p.ndim == 1 else p[0].numel() ** -0.5))
        for module in net.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.running_mean.copy_(0.3 * torch.randn(module.num_features, generator=gen))
                module.running_var.copy_(0.5 + torch.rand(module.num_features, generator=gen))
                if module.affine:
                    module.weight.add_(1)
    return net.to(dtype).eval()


def batch(n=5, *, seed=0, dtype=torch.float64):
    gen = generator(seed, "batch")
    return torch.rand(n, 3, 8, 8, generator=gen).to(dtype), torch.randint(4, (n,), generator=gen)


def obvious_gradient(net, x, y):
    """Flat gradient of the summed loss, by one ordinary backward pass."""
    loss = cross_entropy(net(x), y, reduction="sum")
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(net.parameters()))])


def obvious_product(net, x, y, v, *, loss_weight=0.0):
    """grad_x (<grad_theta loss, v> + w loss) of the whole batch, through a graph of the backward pass."""
    x = x.detach().requires_grad_()
    loss = cross_entropy(net(x), y, reduction="sum")
    gradients = torch.autograd.grad(loss, list(net.parameters()), create_graph=True)
    flat = torch.cat([g.flatten() for g in gradients])
    return torch.autograd.grad(flat @ v + loss_weight * loss, x)[0]


def some_direction(net, *, seed=0):
    count = sum(p.numel() for p in net.parameters())
    return torch.randn(count, generator=generator(seed, "v")).to(next(net.parameters()).dtype)
