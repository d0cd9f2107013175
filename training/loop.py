"""The training loop of 2D and 3D: optimiser, learning rate, running average, input noise."""
import copy
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from common.errors import DataError
from models.sample import Sample
from training.settings import Settings

LOG_EVERY = 10
ENCODER_LR_SHARE = 0.03
MIN_LABELLED_SPOTS = 20
JITTER_PITCHES = 0.3
NOISE_FACTORS = {"spot_x": 1.0, "around_x": 1.0, "region_x": 2.0, "global_x": 4.0}


def optimise(network: nn.Module, loss_at: Callable, settings: Settings, log: Callable | None = None, start: int = 0,
             validate: Callable | None = None) -> None:
    """Train in place. The weights kept are their running average: at the end, or where validate(network) is lowest.

    loss_at(iteration) -> (loss, {name: its parts}, name of the training data); log(start + iteration, {name: value}).
    Raises FloatingPointError if the loss is not finite.
    """
    optimizer = make_optimizer(network, settings)
    average, best = copy.deepcopy(network), (np.inf, None)
    network.train()
    for iteration in range(settings.max_iterations):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(settings, iteration) * group["scale"]
        loss, parts, name = loss_at(iteration)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss.item()} at iteration {iteration} ({name}); lower --base_lr "
                                     f"(now {settings.base_lr}); nothing was written")
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        decay = min(settings.averaging, (1 + iteration) / (10 + iteration))
        with torch.no_grad():
            for kept, now in zip(average.parameters(), network.parameters(), strict=True):
                kept.lerp_(now, 1 - decay)
        if log and iteration % LOG_EVERY == 0:
            log(start + iteration, {"train/loss": loss.item(), "train/lr": learning_rate(settings, iteration), **parts})
        if validate and (iteration + 1) % settings.validate_every == 0:
            error = validate(average.eval())
            if log:
                log(start + iteration, {"validation/loss": error})
            if error < best[0]:
                best = error, copy.deepcopy(average.state_dict())
    network.load_state_dict(best[1] or average.state_dict())


def learning_rate(settings: Settings, iteration: int) -> float:
    """base_lr (1 - iteration / max_iterations)^lr_decay."""
    return settings.base_lr * (1 - iteration / settings.max_iterations) ** settings.lr_decay


def make_optimizer(model: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """The optimiser of a network; the learning rate of its pretrained encoder is smaller by ENCODER_LR_SHARE."""
    groups = []
    for pretrained, scale in ((False, 1.0), (True, ENCODER_LR_SHARE)):
        params = [value for name, value in model.named_parameters() if name.startswith("encoder.") == pretrained]
        if params:
            groups.append({"params": params, "scale": scale})
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=settings.base_lr, momentum=0.9, weight_decay=1e-4)
    return torch.optim.AdamW(groups, lr=settings.base_lr, weight_decay=settings.weight_decay, fused=True)


def check_labelled(who: str, n_spots: int, layers: str) -> None:
    """Raises DataError if these are too few spots for training."""
    if n_spots < MIN_LABELLED_SPOTS:
        raise DataError(who, f"{n_spots} labelled spots on {layers}", f"at least {MIN_LABELLED_SPOTS}",
                        "give others, with counts and image; see status.json")


def with_noise(sample: Sample, sd: float) -> Sample:
    """The sample with Gaussian noise on features and positions, new in every step."""
    noisy = {}
    for name, factor in NOISE_FACTORS.items():
        value = getattr(sample, name)
        noisy[name] = value + sd * factor * torch.randn_like(value)
    return replace(sample, position=sample.position + JITTER_PITCHES * torch.randn_like(sample.position), **noisy)
