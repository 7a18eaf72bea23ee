#!/bin/sh
# What a GPU can say in some minutes: sh experiments/gpu.sh [MINUTES] [RESULTS] [options of experiments/gpu.py]
# Give the same command again to go on; on a bare machine with the folder RESULTS of the last time.
exec "${PYTHON:-python}" "$(dirname "$0")/gpu.py" "$@"
