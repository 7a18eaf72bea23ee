"""Run an experiment, from data to report, as one YAML file describes it:

    accelerate launch distill/run.py experiments/quickstart.yaml [section.key=value ...]
    python -m torch.distributed.run --nproc_per_node 2 distill/run.py exp.yaml      # two processes on CPU

The command skips finished stages and resumes an unfinished one. Run it again after a kill, or after `minutes=9` or
SIGTERM has stopped it (exit status 75). An experiment with `variants` runs all of them, `jobs=3` three at a time.
`--full-size` applies the file's settings for a GPU.
"""

import sys
from pathlib import Path

# Python puts the script's own folder first on sys.path. A bare clone needs the repository root there.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from swapcore import start

start.command(__name__, resumes=True)

import argparse
import os
import warnings
from datetime import timedelta

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from accelerate.state import AcceleratorState

from distill import build, config, estimate, jobs, variants
from distill.data import prepare
from distill.evaluate import measure
from distill.export import convert
from distill.pseudo_gt import generate
from distill.report import page
from distill.stage import OutOfTime, open_run, signals_stop_the_command, stop_if_asked
from distill.train import loop
from swapcore import terminal
from swapcore.hardware import available_cores

# The others wait while the main process checks photographs, evaluates or exports. NCCL would end them after 10 minutes.
PATIENCE = timedelta(hours=24)
STAGES = {
    "data": prepare.run,
    "pseudo_gt": generate.run,
    "train": loop.run,
    "refine": loop.refine,
    "eval": measure.run,
    "export": convert.run,
    "report": page.run,
}


def main(arguments: list[str] | None = None) -> int:
    parser = terminal.parser(__doc__)
    parser.prog = "distill/run.py"
    parser.add_argument("experiment", help="YAML file, see experiments/")
    parser.add_argument("overrides", nargs="*", default=[], metavar="section.key=value", help="change keys of the file")
    parser.add_argument("--full-size", action="store_true", help="apply the file's full_size settings")
    parser.add_argument("--dry-run", action="store_true", help="print the resolved experiment and stop")
    parser.add_argument("--estimate", action="store_true", help="print the memory, operations and time of training")
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    # How `jobs` starts one of the runs of an experiment, and when its own command began.
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--started", type=float, help=argparse.SUPPRESS)
    args = parser.parse_intermixed_args(arguments)
    return command(args) if args.traceback else terminal.run_command(lambda: command(args))


def command(args: argparse.Namespace) -> int:
    exp = config.load(args.experiment, args.overrides, args.full_size)
    if args.dry_run:
        print(config.dump(exp), end="")
        return 0
    if args.estimate:
        set_threads(exp)
        estimate.of_all([child.exp for child in config.children(exp)] or [exp], new_accelerator)
        return 0
    try:
        with signals_stop_the_command():
            if args.started is not None:
                jobs.follow_the_command(args.started)
            run(exp, args.child)
    except OutOfTime as stopped:
        print(stopped)
        return jobs.RUN_AGAIN
    return 0


def set_threads(exp: config.Experiment, beside: int = 1) -> None:
    """Set the threads of this process, which shares the cores with `beside` commands, itself included."""
    # Both launchers set OMP_NUM_THREADS=1 unless the user sets it; all cores but one would be idle.
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    torch.set_num_threads(exp.threads or max(1, available_cores() // (processes * beside)))


def run(exp: config.Experiment, child: str | None = None) -> None:
    """Run all stages of an experiment, or of each of its variants, in order or `jobs` at a time; with `child`, those
    of one of its variants alone, as the process of a job."""
    set_threads(exp, jobs.slots(exp, len(config.children(exp))) if child else 1)
    jobs.refuse_several_processes(exp)
    # torch 2.14 renames this option of DistributedDataParallel; torch 2.11 knows the old name only.
    warnings.filterwarnings("ignore", message=".*broadcast_buffers", category=FutureWarning)
    for each in [one.exp for one in config.children(exp)] or [exp]:
        build.check_names(each)
    exp = estimate.with_faster_precision(exp, new_accelerator)
    children = config.children(exp)
    if children and exp.jobs > 1 and not child:
        variants.run_side_by_side(exp, children)
        return

    def stages_of(one: config.Experiment, **parent) -> None:
        run_stages(one, new_accelerator(one), **parent)

    accelerator = new_accelerator(exp)
    if child:
        variants.run_child(exp, children, child, stages_of)
    elif children:
        variants.run(exp, children, stages_of, accelerator)
    else:
        run_stages(exp, accelerator)
    accelerator.end_training()


def run_stages(exp: config.Experiment, accelerator: Accelerator, **parent) -> None:
    """Run the stages that the experiment names; `parent`: options of Tracker for the run of a variant."""
    with open_run(exp, accelerator.is_main_process, **parent) as tracker:
        for name in exp.stages:
            stop_if_asked(exp, accelerator, f"before stage {name} of {exp.name}")
            accelerator.print(f"[{name}]")
            with variants.shared_in_turn(exp, name, accelerator):
                own = new_accelerator(loop.of_refine(exp)) if name == "refine" else accelerator
                STAGES[name](exp, own, tracker)
            accelerator.wait_for_everyone()


def new_accelerator(exp: config.Experiment) -> Accelerator:
    per_scale = zip(exp.loss.adversarial, exp.loss.identity, exp.loss.reconstruction, strict=True)
    unused = not all(any(weights) for weights in per_scale)  # a head that no loss term reads gets no gradient
    # Running statistics are equal on all processes (or local by choice): buffers need no broadcast before each pass.
    # With cpu=True, Accelerate joins the processes of torch.distributed.run; without it each would run alone. Apple's
    # GPU is not used: it lacks operations of the renderer and of the metrics.
    AcceleratorState._reset_state()  # forgets the precision of the previous variant, keeps the process group
    return Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision={"fp32": "no"}.get(exp.train.precision, exp.train.precision),
        gradient_accumulation_steps=exp.train.accumulation,
        kwargs_handlers=[
            DistributedDataParallelKwargs(broadcast_buffers=False, find_unused_parameters=unused),
            InitProcessGroupKwargs(timeout=PATIENCE),
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
