"""Losses and gradients by transformers, peft and autograd, one unpacked row at a time."""

import types

import torch


def _exact_norm(self, x):
    return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))


def _exact_rotary(self, x, position_ids):
    angles = (position_ids[..., None].float() * self.inv_freq.float()).double()
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos().float().double(), angles.sin().float().double()


def in_double(model):
    """`model` in float64 throughout. transformers computes the statistics of norms and the rotary tables in float32
    whatever the model's type; here the statistics are double, and the tables are rounded to float from exact values."""
    model = model.double()
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = types.MethodType(_exact_norm, module)
        if type(module).__name__.endswith("RotaryEmbedding"):
            module.forward = types.MethodType(_exact_rotary, module)
    return model


def plain_name(name):
    """peft's name of a parameter as adapter files have it, without their prefix."""
    return name.removeprefix("base_model.model.").replace(".default.", ".").replace(".modules_to_save.", ".")


def compute(model, rows, supervised):
    """{"logits", "losses", "gradient/<tensor>"} of the mean loss over all supervised tokens."""
    model.zero_grad()
    logits, losses = [], []
    total = sum(sum(weights[1:]) for weights in supervised)
    for ids, weights in zip(rows, supervised, strict=True):
        row_logits = model(input_ids=torch.tensor([ids])).logits[0]
        counts = torch.tensor(weights[1:], dtype=torch.bool)
        row_losses = torch.nn.functional.cross_entropy(
            row_logits[:-1][counts], torch.tensor(ids[1:])[counts], reduction="none")
        (row_losses.sum() / total).backward()
        logits.append(row_logits.detach())
        losses.append(row_losses.detach())
    out = {"logits": torch.cat(logits), "losses": torch.cat(losses)}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            out["gradient/" + plain_name(name)] = parameter.grad.clone()
    return out
