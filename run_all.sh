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

  --profile demo|paper  demo: small images of drawn shapes, two cores, minutes, no download.
                        paper: CIFAR-10 and CIFAR-100 at the paper's settings; wants a GPU.
                        Without it: paper where a CUDA GPU is present, else demo.
  --dataset NAME        this data set only: cifar10, cifar100, shapes, or a folder with train/ and test/
  --seeds N             seeds 0 to N-1 (demo: 2, paper: 3)
  --data DIR            where data sets live or are downloaded to (default: data/)
  --cpu                 run on the CPU, even if a GPU is here or it takes days
  --jobs N              runs at the same time (default: one a core on the CPU, at most 4; 1 on a GPU)
  --only PATTERN        only jobs whose name matches, for example '*printed-a1*'; see --dry-run for the names
  --set NAME=VALUE      change a parameter of every notebook that has it, for example --set epochs=2; may be repeated
  --dry-run             list the jobs and their estimated cost, run nothing
  --fresh               delete this profile's earlier runs and start over
  --help                this text

Results: runs/PROFILE/{records,figures,notebooks,logs}, and all of it on one page: report/index.html
HELP
        exit 0
        ;;
    esac
done
. ./setup_env.sh
exec "$PY" -m resattn.experiments.notebooks "$@"
