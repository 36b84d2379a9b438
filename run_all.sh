#!/usr/bin/env bash
# The whole paper in one command: sets up the environment, then runs every notebook. See ./run_all.sh --help
set -euo pipefail
cd "$(dirname "$0")"
for argument in "$@"; do
    case $argument in -h | --help)
        cat <<'HELP'
usage: ./run_all.sh [options]

Sets up an environment (first call only), then runs every notebook of the paper and prints where the results are.
Finished runs are skipped; after an interruption call it again.

  --profile demo|reduced|paper
                        demo: small images of drawn shapes, two cores, minutes, no download.
                        reduced: CIFAR-10 at 64 pixels, 100 epochs, five networks, for the CPU.
                        paper: CIFAR-10 and CIFAR-100 at the paper's settings; wants a GPU.
                        Without it: paper where a CUDA GPU is present, else demo.
                        controls, short: only the trainings of these lists, without notebooks;
                        short --seeds 15 makes the README's CIFAR-10 column of that name
  --dataset NAME        this data set only: cifar10, cifar100, shapes, or a folder with train/ and test/
  --seeds N             seeds 0 to N-1 (demo: 2, else 3)
  --data DIR            where data sets live or are downloaded to (default: data/)
  --cpu                 run on the CPU, even if a GPU is here or it takes days
  --jobs N              runs at the same time (default: one a core, or one a GPU)
  --scheduler ADDRESS|FILE
                        join the Dask cluster of this scheduler instead
  --only PATTERN        only runs whose name matches, for example '*printed-a1*'; see --dry-run for the names
  --set NAME=VALUE      change a setting of every run that has it, for example --set epochs=2; may be repeated
  --out DIR             folder for the records of controls or short (default: runs/PROFILE/records)
  --dry-run             list the runs and about what they cost, run nothing
  --help                this text

Results: runs/PROFILE/{records,figures,notebooks,logs}, and all of it on one page: report/index.html
HELP
        exit 0
        ;;
    esac
done
. ./setup_env.sh
exec "$PY" -m resattn run "$@"
