"""The command: one YAML from data to report.

    accelerate launch distill/run.py experiments/quickstart.yaml [section.key=value ...]
    python -m torch.distributed.run --nproc_per_node 2 distill/run.py exp.yaml      # two processes on CPU

`--dry-run` prints the resolved experiment and stops; `--estimate` takes two steps and says what all of them will need;
`--traceback` shows where an error came from. What is finished is skipped, what is not is resumed: run the same command
again after a kill, or after `minutes=9` stopped it so early (exit status 75). Of an experiment with `variants` all are
run; `--full-size` sets what the file has for a GPU.
"""

import sys
from pathlib import Path

# A script's own folder comes first on sys.path; the repository root must, or a bare clone finds none of its packages.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

import argparse
import os
import warnings

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState

from distill import build, config, estimate, variants
from distill.data import prepare as data
from distill.evaluate import measure as evaluate
from distill.export import convert as export
from distill.pseudo_gt import generate as pseudo_gt
from distill.report import page as report
from distill.stage import OutOfTime, stop_if_out_of_time
from distill.tracking import Tracker
from distill.train import loop as train
from swapcore.files import write_text
from swapcore.hardware import available_cores

STAGES = {
    "data": data.run,
    "pseudo_gt": pseudo_gt.run,
    "train": train.run,
    "refine": train.refine,
    "eval": evaluate.run,
    "export": export.run,
    "report": report.run,
}
AGAIN = 75  # exit status of a command that `minutes` stopped: EX_TEMPFAIL of sysexits.h


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="distill/run.py"
    )
    parser.add_argument("experiment", help="YAML file, see experiments/")
    parser.add_argument("overrides", nargs="*", default=[], metavar="section.key=value")
    parser.add_argument("--full-size", action="store_true", help="with the settings for a GPU that the file has")
    parser.add_argument("--dry-run", action="store_true", help="print the resolved experiment and stop")
    parser.add_argument("--estimate", action="store_true", help="print what training needs: memory, operations, time")
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    args = parser.parse_intermixed_args(arguments)
    try:
        exp = config.load(args.experiment, args.overrides, args.full_size)
        if args.dry_run:
            print(config.dump(exp), end="")
            return 0
        if args.estimate:
            set_threads(exp)
            estimate.of_all([child.exp for child in config.children(exp)] or [exp], new_accelerator)
            return 0
        run(exp)
    except OutOfTime as stopped:
        print(stopped)
        return AGAIN
    except (ValueError, OSError) as error:
        if args.traceback:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def set_threads(exp: config.Experiment) -> None:
    # Both launchers set OMP_NUM_THREADS=1 where nobody did, which would leave all cores but one idle.
    beside = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    torch.set_num_threads(exp.threads or max(1, available_cores() // beside))


def run(exp: config.Experiment) -> None:
    """All stages of an experiment in order, or of each of its variants."""
    set_threads(exp)
    # torch 2.14 renames this option of DistributedDataParallel; older versions know only this name.
    warnings.filterwarnings("ignore", message=".*broadcast_buffers", category=FutureWarning)
    accelerator = new_accelerator(exp)
    children = config.children(exp)
    for one in [child.exp for child in children] or [exp]:
        build.check_names(one)
    if children:
        variants.run(exp, children, lambda one, **of: run_stages(one, new_accelerator(one), **of), accelerator)
    else:
        run_stages(exp, accelerator)
    accelerator.end_training()


def run_stages(exp: config.Experiment, accelerator: Accelerator, **tracked) -> None:
    if accelerator.is_main_process:
        write_text(exp.folder / "experiment.yaml", config.dump(exp))
    tracker = Tracker(exp, enabled=accelerator.is_main_process, **tracked)
    status = "FAILED"
    try:
        for name in exp.stages:
            stop_if_out_of_time(exp, accelerator, f"before stage {name} of {exp.name}")
            accelerator.print(f"[{name}]")
            STAGES[name](exp, accelerator, tracker)
            accelerator.wait_for_everyone()
        status = "FINISHED"
    except (KeyboardInterrupt, OutOfTime):
        status = "KILLED"
        raise
    finally:
        tracker.end(status)


def new_accelerator(exp: config.Experiment) -> Accelerator:
    per_scale = zip(exp.loss.adversarial, exp.loss.identity, exp.loss.reconstruction, strict=True)
    unused = not all(any(weights) for weights in per_scale)  # a head whose output nothing looks at gets no gradient
    # Running statistics are equal on all processes (or local by wish), so buffers need no broadcast before each pass.
    # Told that it is to be the CPU, Accelerate joins the processes of torch.distributed.run; else each would run alone.
    # Apple's GPU is passed over as well: not all that is drawn and measured here exists on it.
    AcceleratorState._reset_state()  # the precision of a variant's sister must not hold for this one; processes stay
    return Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision={"fp32": "no"}.get(exp.train.precision, exp.train.precision),
        gradient_accumulation_steps=exp.train.accumulation,
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False, find_unused_parameters=unused)],
    )


if __name__ == "__main__":
    sys.exit(main())
