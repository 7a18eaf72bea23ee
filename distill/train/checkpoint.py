"""The state of a training run, saved so that N steps, a kill and N more are 2N steps bit for bit."""

from __future__ import annotations

import copy
import math
import time
from pathlib import Path

import torch
from torch import nn

from distill.config import Experiment
from distill.stage import StageError
from swapcore.files import whole_file

FORMAT = 2


class State:
    """All that a run must remember to go on bit for bit: the networks, both optimisers, the average, the step."""

    def __init__(self, student: nn.Module, discriminator: nn.Module, adapters: nn.Module, exp: Experiment):
        self.student, self.discriminator, self.adapters = student, discriminator, adapters
        self.settings = exp.train
        self.average = copy.deepcopy(student).eval().requires_grad_(False)
        fused = next(student.parameters()).is_cuda
        parameters = [p for p in discriminator.parameters()]
        learning = [*student.parameters(), *adapters.parameters()]
        self.optimiser = torch.optim.Adam(learning, exp.train.lr, betas=exp.train.betas, fused=fused)
        self.optimiser_d = (
            torch.optim.Adam(parameters, exp.train.lr_discriminator, betas=exp.train.betas, fused=fused)
            if parameters
            else None
        )
        self.step = 0
        self.seconds = 0.0  # of training, over all starts
        self._since = time.monotonic()

    def watch(self) -> float:
        """Seconds of training so far; what was spent before the last call is in `seconds`."""
        now = time.monotonic()
        self.seconds, self._since = self.seconds + now - self._since, now
        return self.seconds

    def set_learning_rate(self) -> None:
        s = self.settings
        warm = min(1.0, (self.step + 1) / s.warmup_steps) if s.warmup_steps else 1.0
        fall = s.lr_final + (1 - s.lr_final) * (1 + math.cos(math.pi * self.step / max(1, s.steps))) / 2
        for group in self.optimiser.param_groups:
            group["lr"] = s.lr * warm * fall

    @torch.no_grad()
    def update_average(self) -> None:
        decay = min(self.settings.ema, (1 + self.step) / (10 + self.step))  # the first steps would weigh too long
        torch._foreach_lerp_(list(self.average.parameters()), list(self.student.parameters()), 1 - decay)
        buffers = list(self.average.buffers())
        if buffers:
            torch._foreach_copy_(buffers, list(self.student.buffers()))

    def save(self, folder: Path, accelerator) -> None:
        """Write `step-NNNNNNN.pt` whole, then remove the one before."""
        rng = {"cpu": torch.get_rng_state()}
        if accelerator.device.type == "cuda":
            rng["cuda"] = torch.cuda.get_rng_state(accelerator.device)
        rngs = accelerator.gather_for_metrics([rng], use_gather_object=True)
        if not accelerator.is_main_process:
            return
        content = {
            "format": FORMAT,
            "step": self.step,
            "seconds": self.watch(),
            "student": self.student.state_dict(),
            "average": self.average.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "adapters": self.adapters.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "optimiser_d": self.optimiser_d.state_dict() if self.optimiser_d else None,
            "scaler": accelerator.scaler.state_dict() if accelerator.scaler else None,
            "rng": rngs,
        }
        path = folder / f"step-{self.step:07d}.pt"
        with whole_file(path) as temporary:
            torch.save(content, temporary)
        for old in folder.glob("step-*.pt"):
            if old != path:
                old.unlink()

    def load(self, folder: Path, accelerator) -> bool:
        """Go on from the newest checkpoint, if there is one. Raises StageError naming a damaged or foreign file."""
        paths = sorted(folder.glob("step-*.pt"))
        if not paths:
            return False
        path = paths[-1]
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
            if content["format"] != FORMAT:
                raise StageError(f"{path}: checkpoint format {content['format']}, this program writes {FORMAT}")
            self.student.load_state_dict(content["student"])
            self.average.load_state_dict(content["average"])
            self.discriminator.load_state_dict(content["discriminator"])
            self.adapters.load_state_dict(content["adapters"])
            self.optimiser.load_state_dict(content["optimiser"])
            if self.optimiser_d:
                self.optimiser_d.load_state_dict(content["optimiser_d"])
        except (RuntimeError, KeyError, EOFError, OSError, AttributeError, TypeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise StageError(f"{path}: not a checkpoint of this student ({reason}); delete it to start anew") from None
        if accelerator.scaler and content["scaler"]:
            accelerator.scaler.load_state_dict(content["scaler"])
        self.step = content["step"]
        self.seconds = content.get("seconds", 0.0)
        if accelerator.process_index < len(content["rng"]):
            rng = content["rng"][accelerator.process_index]
            torch.set_rng_state(rng["cpu"])
            if "cuda" in rng and accelerator.device.type == "cuda":
                torch.cuda.set_rng_state(rng["cuda"], accelerator.device)
        return True
