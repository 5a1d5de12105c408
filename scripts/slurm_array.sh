#!/usr/bin/env bash
#SBATCH --job-name=magg
#SBATCH --array=1-12
#SBATCH --cpus-per-task=4
#SBATCH --mem=8G
#SBATCH --time=04:00:00
#SBATCH --output=magg-%A_%a.log
# Aggregates a catalog into one store with an array of Slurm jobs, each of which does a part of the
# cells. The parts share nothing but the store, which may be on the file system of the cluster or in
# S3. The number of parts is that of the array:
#
#   sbatch --export=ALL,MAGG_CATALOG=catalog.json,MAGG_STORE=heights.zarr scripts/slurm_array.sh
#
# What failed or was cut short is done by the same command again, or by a part of the array, which
# then needs the number of parts:
#
#   sbatch --array=3,7 --export=ALL,MAGG_PARTS=12,... scripts/slurm_array.sh
#
#   MAGG_CATALOG, MAGG_STORE  the catalog and the store (required)
#   MAGG_CONFIG               a config (default: atl06)
#   MAGG_PARTS                parts of the cells (default: SLURM_ARRAY_TASK_MAX)
#   MAGG_OPTIONS              further options of `magg run`
#   MAGG                      the command (default: magg)
set -euo pipefail

: "${MAGG_CATALOG:?set MAGG_CATALOG to the catalog}"
: "${MAGG_STORE:?set MAGG_STORE to the store}"
: "${SLURM_ARRAY_TASK_ID:?run this with sbatch, as an array (--array=1-12)}"
parts=${MAGG_PARTS:-${SLURM_ARRAY_TASK_MAX:?set MAGG_PARTS to the number of parts}}
read -ra magg <<<"${MAGG:-magg}"
read -ra options <<<"${MAGG_OPTIONS:-}"

# NumPy's library would start a thread for each core of the node, and none is of use here.
export OPENBLAS_NUM_THREADS=1
# Freed memory is kept for the next cell instead of being mapped anew.
export MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=1073741824

exec "${magg[@]}" run "${MAGG_CONFIG:-atl06}" --catalog "$MAGG_CATALOG" --store "$MAGG_STORE" \
    --part "$SLURM_ARRAY_TASK_ID/$parts" --max-workers "${SLURM_CPUS_PER_TASK:-4}" --quiet \
    "${options[@]}"
