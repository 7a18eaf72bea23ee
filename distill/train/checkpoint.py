"""The state of a training run, saved so that N steps, a kill and N more steps equal 2N steps, bit for bit."""

from __future__ import annotations

import copy
import math
import os
import pickle
import time
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from distill.config import Experiment
from distill.stage import StageError
from distill.train.monitor import Sums
from distill.train.muon import Muon
from swapcore.files import whole_file

FORMAT = 2


def _pairs(average: nn.Module, network: nn.Module) -> dict[str, Any]:
    """Lists of tensors that the average takes from the network: of parameters, and of the buffers of each type. Lists
    of one type are computed in one operation."""
    buffers: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
    for own, current in zip(average.buffers(), network.buffers(), strict=True):
        pair = buffers.setdefault(own.dtype, ([], []))
        pair[0].append(own)
        pair[1].append(current)
    return {"parameters": (list(average.parameters()), list(network.parameters())), "buffers": list(buffers.values())}


def _set(place: float | Tensor, value: float) -> float | Tensor:
    """The value, in the tensor where there is one: its address stays."""
    return place.fill_(value) if isinstance(place, Tensor) else value


class State:
    """The networks in training without their wrappers, the EMA of `net`, both optimisers, the step, and the sums of the
    losses since the last line of the log. `reported`: whether log, previews and checkpoint have the last step."""

    def __init__(self, net: nn.Module, discriminator: nn.Module, adapters: nn.Module, exp: Experiment) -> None:
        self.net, self.discriminator, self.adapters = net, discriminator, adapters
        self.ema = copy.deepcopy(net).eval().requires_grad_(False)
        self._pairs = _pairs(self.ema, net)
        train = exp.train
        parameters = [*net.parameters(), *adapters.parameters()]
        # Fused: one operation for all parameters. Every device of this project has it.
        self.optimiser: torch.optim.Optimizer
        if train.optimiser == "muon":
            self.optimiser = Muon(parameters, train.lr, train.lr_matrices, train.betas)
        else:
            self.optimiser = torch.optim.Adam(parameters, train.lr, betas=train.betas, fused=True)
        self.optimiser_d = None
        if parameters := list(discriminator.parameters()):
            self.optimiser_d = torch.optim.Adam(parameters, train.lr_discriminator, betas=train.betas, fused=True)
        self.ema_weight: float | Tensor = 1.0  # of the weights in their average, in this step
        self.settings, self.step, self.sums, self.reported = train, 0, Sums(), True
        self.best: dict[str, Any] | None = None  # step, score and average of the best preview, for train.keep=best
        self.spent_s, self._since = 0.0, time.monotonic()

    def elapsed_s(self) -> float:
        """Seconds of training up to now, over all starts."""
        now = time.monotonic()
        self.spent_s, self._since = self.spent_s + now - self._since, now
        return self.spent_s

    def make_capturable(self) -> None:
        """Keep on the device what differs from step to step: a captured step reads it there. `AcceleratedOptimizer`
        must be around the optimisers already, because it replaces their settings."""
        device = next(self.net.parameters()).device
        self.ema_weight = torch.ones((), device=device)
        for optimiser in filter(None, (self.optimiser, self.optimiser_d)):
            for group in optimiser.param_groups:
                group["lr"] = torch.tensor(float(group["lr"]), device=device)
                group["capturable"] = True

    def set_rates(self) -> None:
        """The learning rate and the weight of the average of the step that comes."""
        s = self.settings
        warm = min(1.0, (self.step + 1) / s.warmup_steps) if s.warmup_steps else 1.0
        fall = s.lr_final + (1 - s.lr_final) * (1 + math.cos(math.pi * self.step / max(1, s.steps))) / 2
        for group, rate in zip(self.optimiser.param_groups, (s.lr, s.lr_matrices), strict=False):
            group["lr"] = _set(group["lr"], rate * warm * fall)
        decay = min(s.ema, (2 + self.step) / (11 + self.step))  # else the first steps keep too much weight
        self.ema_weight = _set(self.ema_weight, 1 - decay)

    @torch.no_grad()
    def update_ema(self) -> None:
        """Move the average towards the weights by `ema_weight`; copy the buffers."""
        average, weights = self._pairs["parameters"]
        if isinstance(self.ema_weight, Tensor):  # there is no foreach lerp with one tensor as the weight of all
            torch._foreach_mul_(average, 1 - self.ema_weight)
            torch._foreach_add_(average, torch._foreach_mul(weights, self.ema_weight))
        else:
            torch._foreach_lerp_(average, weights, self.ema_weight)
        for buffers, current in self._pairs["buffers"]:
            torch._foreach_copy_(buffers, current)

    def keep_if_best(self, score: float) -> None:
        """Keep a copy of the EMA where its score is higher than all before; the first of equal ones stays. A checkpoint
        holds it, so no stop loses it, and a report that is repeated changes nothing."""
        if math.isfinite(score) and (self.best is None or score > self.best["score"]):
            average = {key: value.detach().cpu().clone() for key, value in self.ema.state_dict().items()}
            self.best = {"step": self.step, "score": score, "average": average}

    def take_best(self) -> None:
        """Make the EMA that of the best preview, on every process; previews are of the main process alone."""
        (best,) = broadcast_object_list([self.best])
        if best is not None:
            self.best = best
            self.ema.load_state_dict(best["average"])

    def _parts(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        """Everything with a state dict, by its key in the file."""
        parts = {
            "student": self.net, "average": self.ema, "discriminator": self.discriminator, "adapters": self.adapters,
            "optimiser": self.optimiser, "optimiser_d": self.optimiser_d,
        }  # fmt: skip
        return {key: part for key, part in parts.items() if part is not None}

    def save(self, folder: Path, accelerator) -> None:
        """Write `step-NNNNNNN.pt` whole, then remove older checkpoints. Every process calls it. Raises DiskFull."""
        rng = {"cpu": torch.get_rng_state()}
        if accelerator.device.type == "cuda":
            rng["cuda"] = torch.cuda.get_rng_state(accelerator.device)
        own = accelerator.gather_for_metrics([(rng, self.sums.state_dict())], use_gather_object=True)
        if not accelerator.is_main_process:
            return
        content = {"format": FORMAT, "step": self.step, "seconds": self.elapsed_s(), "optimiser_d": None}
        content |= {"rng": [rng for rng, _ in own], "sums": [sums for _, sums in own], "reported": self.reported}
        content |= {key: part.state_dict() for key, part in self._parts().items()}
        for optimiser in filter(None, (content["optimiser"], content["optimiser_d"])):
            for group in optimiser["param_groups"]:
                group["lr"] = float(group["lr"])
        if self.best is not None:
            content["best"] = self.best
        content["scaler"] = accelerator.scaler.state_dict() if accelerator.scaler else None
        path = folder / f"step-{self.step:07d}.pt"
        with whole_file(path) as temporary, open(temporary, "wb") as file:
            torch.save(content, file)
            os.fsync(file.fileno())  # a machine that dies must not take this one and the removed ones with it
        for old in folder.glob("step-*.pt"):
            if old != path:
                old.unlink()

    def load(self, folder: Path, accelerator) -> bool:
        """Load the newest checkpoint; False if there is none. Raises StageError naming a damaged or foreign file."""
        paths = sorted(folder.glob("step-*.pt"))
        if not paths:
            return False
        path = paths[-1]
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, LookupError, AttributeError):
            raise StageError(f"{path}: damaged, or no checkpoint; delete it to start anew") from None
        try:
            if content["format"] != FORMAT:
                raise StageError(f"{path}: format {content['format']}, expected {FORMAT}; delete it to start anew")
            self._take(content, accelerator)
        except StageError:
            raise
        except (RuntimeError, LookupError, ValueError, AttributeError, TypeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise StageError(f"{path}: not a checkpoint of this student ({reason}); delete it to start anew") from None
        return True

    def _take(self, content: dict[str, Any], accelerator) -> None:
        for key, part in self._parts().items():
            if key.startswith("optimiser"):  # how it computes is a matter of this start, not of the one that saved it
                for group, own in zip(content[key]["param_groups"], part.param_groups, strict=True):
                    options = ("lr", "fused", "foreach", "capturable")
                    group.update({option: own[option] for option in options if option in own})
            part.load_state_dict(content[key])
        if accelerator.scaler and content["scaler"]:
            accelerator.scaler.load_state_dict(content["scaler"])
        self.step, self.spent_s = int(content["step"]), float(content.get("seconds", 0.0))
        self.best = content.get("best")
        self.reported, sums = content.get("reported", True), content.get("sums", [])
        if len(sums) == accelerator.num_processes:  # those of other numbers of processes do not add up
            self.sums.load_state_dict(sums[accelerator.process_index], accelerator.device)
        if accelerator.process_index < len(content["rng"]):
            rng = content["rng"][accelerator.process_index]
            torch.set_rng_state(rng["cpu"])
            if "cuda" in rng and accelerator.device.type == "cuda":
                torch.cuda.set_rng_state(rng["cuda"], accelerator.device)
