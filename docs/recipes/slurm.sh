#!/bin/bash
# One rcopt worker per task: sbatch docs/recipes/slurm.sh studies/mine.toml
#
# The study file names the shared servers, without any password:
#   [search]   storage = "postgresql+psycopg://rcopt@db.example/rcopt"
#   [tracking] uri = "http://mlflow.example:5000"
# The database's password comes from ~/.pgpass (mode 600), the MLflow server's login from
# MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD.
#SBATCH --job-name=rcopt
#SBATCH --array=0-3
#SBATCH --cpus-per-task=1
#SBATCH --time=24:00:00
#SBATCH --output=rcopt-%A_%a.log
# With GPUs: one for each worker.
##SBATCH --gpus-per-task=1
# A minute before the time is up the worker is told, hands its stage back with the last epoch's
# checkpoint, and the job goes into the queue again.
#SBATCH --signal=B:TERM@60
#SBATCH --requeue
set -u

study=${1:?usage: sbatch slurm.sh STUDY.toml [rcopt worker options]}
shift
export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}

rcopt worker "$study" "$@" &
worker=$!
trap 'kill -TERM $worker' TERM
wait $worker
code=$?
# A trapped signal ends the first wait; the worker then takes some seconds to stop.
if kill -0 $worker 2>/dev/null; then
  wait $worker
  code=$?
fi
# 130: stopped before the study was complete.
if [ $code -eq 130 ] && [ -n "${SLURM_JOB_ID:-}" ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit $code
