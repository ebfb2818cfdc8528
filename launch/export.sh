#!/usr/bin/env bash
# A training run's checkpoint as a bundle, an Orbax tree or StableHLO; made for a job's last line.
#
#   launch/export.sh WORKDIR OUTPUT [--format=bundle|orbax|stablehlo] [--weights=ema|raw] [--step=N] [--overwrite]
#
# PYTHON names the interpreter. No accelerator is touched, so the run may be going on.
set -euo pipefail

if [[ $# -lt 2 || $1 == -* || $2 == -* ]]; then
  echo "usage: $0 WORKDIR OUTPUT [--format=bundle|orbax|stablehlo] [--weights=ema|raw] [--step=N] [--overwrite]" >&2
  exit 2
fi
workdir=$1 output=$2
shift 2

exec "${PYTHON:-python}" -m tadsr_jax.export --workdir="$workdir" --output="$output" "$@"
