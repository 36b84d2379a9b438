#!/usr/bin/env bash
# Sets up the environment (first call only) and runs every check: lint, package tests, notebooks. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
case ${1:-} in -h | --help)
    echo "usage: bash tests/run.sh [pytest options]   set up the environment, then lint and run all tests (7 to 18 minutes on two cores)"
    exit 0
    ;;
esac
. ./setup_env.sh
"$PY" -m ruff check .
"$PY" -m ruff format --check .
export RESATTN_HEADLESS=1 OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
"$PY" -m pytest -n 2 --dist worksteal "$@"
[ $# -gt 0 ] || "$PY" -m pytest -n 2 --dist loadscope --nbval-lax --nbval-current-env --nbval-cell-timeout=300 notebooks
