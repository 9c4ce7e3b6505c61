#!/usr/bin/env bash
#SBATCH --job-name=exportgate-merge
#SBATCH --ntasks=1
#SBATCH --mem=4G
#SBATCH --time=00:30:00
#SBATCH --output=%x-%j.log
# One report of all shards, in REPORTS.merged; it fails if any shard did, or is missing.
#
#   sbatch --dependency=afterany:ARRAY docs/examples/slurm-merge.sh REPORTS
set -euo pipefail

reports=${1%/}
exec "${PYTHON:-.tox/gate-s3/bin/python}" -m pytest -c pyproject.toml -p fixtures.options \
  --report "$reports.merged" --merge "$reports"
