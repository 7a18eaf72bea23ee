#!/bin/sh
# The full-size results, in order, in pieces of at most MINUTES (9) each: sh experiments/full_size.sh [MINUTES]
# A command that stops with status 75 is out of time, and the script repeats it. Finished work is skipped in seconds, so
# the script may be stopped anywhere and started again later with the same folder runs/ (checkpoints: some 10 to 100 MB
# a run; `--estimate` in place of minutes=... prints size and duration). Neither mlflow nor lpips is needed. PHOTOS,
# HELDOUT and WEIGHTS name folders; without them the experiments on photographs are left out.
set -eu
cd "$(dirname "$0")/.."
MINUTES=${1:-9}
PYTHON=${PYTHON:-python}
OUT=runs/speed
mkdir -p "$OUT"

# Run a command once and keep its output in $OUT. $1: name of the output; the others: the command.
once() {
    name=$1; shift
    [ -f "$OUT/$name.json" ] && return
    "$PYTHON" "$@" --out "$OUT/$name.part" | tee "$OUT/$name.txt"
    mv "$OUT/$name.part" "$OUT/$name.json"
}

# Run an experiment until it is finished. Any other failure stops the script.
pieces() {
    status=75
    while [ "$status" -eq 75 ]; do
        status=0
        "$PYTHON" distill/run.py "$@" --full-size tracking.uri=none minutes="$MINUTES" || status=$?
    done
    [ "$status" -eq 0 ]
}

# 1. Speed of the training step; with and without torch.compile; the loss curves over 500 steps.
once train_step benchmarks/train_step.py --workers 8
once train_step_compiled benchmarks/train_step.py --workers 8 --only b --compile
once train_step_curves benchmarks/train_step.py --curves --workers 8

# 2. Speed of generation.
once generation benchmarks/generation.py

# 3. The synthetic benchmark at 256.
pieces experiments/synthetic_256.yaml

# 4. A neural teacher, its student, and a student of the exact swaps to compare with.
pieces experiments/teacher_faceshifter.yaml name=teacher_faceshifter_256
pieces experiments/distil_faceshifter.yaml name=distil_faceshifter_256
pieces experiments/distil_faceshifter.yaml name=distil_exact_256 'pseudo_gt.teachers=[exact]'
"$PYTHON" experiments/inherited.py experiments/distil_faceshifter.yaml --full-size name=distil_faceshifter_256 \
    --control runs/distil_exact_256/student.safetensors
"$PYTHON" experiments/keep.py runs/synthetic_256 runs/teacher_faceshifter_256 runs/distil_faceshifter_256

# 5. Photographs: the original's recipe, a teacher trained on them, its student.
if [ -n "${PHOTOS:-}" ]; then
    for name in photos photos_teacher photos_distil; do
        pieces "experiments/$name.yaml" name="${name}_160" data.photos="$PHOTOS" data.heldout="$HELDOUT" \
            weights="[$WEIGHTS]" loss.perceptual_network=squeezenet_compressed
        "$PYTHON" experiments/keep.py "runs/${name}_160"
    done
fi
