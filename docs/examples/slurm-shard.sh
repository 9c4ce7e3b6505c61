#!/usr/bin/env bash
#SBATCH --job-name=exportgate
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --time=08:00:00
#SBATCH --output=%x-%A_%a.log
# One shard, as a task of a job array with the indices 1-COUNT; docs/shards.md has the commands.
#
#   sbatch --array=1-COUNT docs/examples/slurm-shard.sh COUNT REPORTS [OPTION...]
#
# COUNT is said again, since Slurm counts the tasks of this array, which are fewer where some are run again. REPORTS is a
# folder that all nodes see, of this run alone.
set -euo pipefail

count=$1 reports=$2
shift 2
: "${EXPORTGATE_STORE:?name the store between the nodes, such as s3://bucket/exportgate}"
# What a node has of the store, and of the hub, lies on its own disk.
export XDG_CACHE_HOME="${NODE_CACHE:-/tmp/exportgate-$(id -u)}"

exec "${PYTHON:-.tox/gate-s3/bin/python}" -m pytest -c pyproject.toml -p fixtures.options \
  --shard "$SLURM_ARRAY_TASK_ID/$count" --report "$reports/$SLURM_ARRAY_TASK_ID" "$@"
