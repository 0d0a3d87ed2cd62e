"""The search as it is published: everything anew at every step. Slow and obvious."""

import copy
import math

import numpy as np
import torch


def dampened(model, forget, keep, alpha, lam):
    """A deep copy, dampened tensor by tensor; and the mask of what was selected."""
    model = copy.deepcopy(model)
    masks = []
    with torch.no_grad():
        for name, p in model.named_parameters():
            f, d = forget[name].double(), keep[name].double()
            chosen = f > alpha * d
            factor = torch.where(chosen, lam * d / f, 1.0).clamp(max=1.0)
            p.copy_((p.double() * factor).to(p.dtype))
            masks.append(chosen.flatten())
    return model, torch.cat(masks)


def alpha_at(forget, keep, percentile):
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.concatenate([(forget[name].numpy() / keep[name].numpy()).ravel() for name in forget])
    found = found.astype(np.float64)
    return float(np.percentile(found[np.isfinite(found)], percentile))


def accuracy(model, x, labels):
    with torch.no_grad():
        return float((model.eval()(x).argmax(1) == labels).double().mean())


def reference_search(model, forget, keep, x, labels, *, size, rho=0.2, b_start=25.0, s_step=1.1, max_tries=500):
    """Return the step, from 0, the model and the mask; step None if no try met the rule."""
    before = accuracy(model, x, labels)
    q = len(x) / size / b_start
    for step in range(max_tries):
        alpha = alpha_at(forget, keep, 100 - math.log(1 + 100 * q))
        tried, mask = dampened(model, forget, keep, alpha, 1.0)
        if accuracy(tried, x, labels) <= rho * before:
            return step, tried, mask
        q *= s_step
    return None, tried, mask
