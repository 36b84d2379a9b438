# Sourced by run_all.sh and tests/run.sh: sets $PY to a Python that holds everything requirements.lock names.
# An active environment (conda, venv) that already has the package is used as it is; else .venv is made, once.

_has_everything() {
    "$1" - <<'PYTHON' 2>/dev/null
import importlib.metadata as metadata, sys
sys.exit(any(metadata.version(name) is None for name in ("resattn", "torch", "timm", "papermill", "optuna", "distributed", "latex2mathml", "nbval", "pytest", "pytest-xdist", "playwright")))
PYTHON
}

_find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11 python; do
        [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1 &&
            "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { command -v "$candidate"; return 0; }
    done
    echo "Python 3.11 or newer is needed and was not found; name one with PYTHON=/path/to/python3" >&2
    return 1
}

if [ -n "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] && _has_everything python; then
    PY=$(command -v python)
else
    _stamp=.venv/.ready-$(cksum < requirements.lock | tr -d ' ')
    if [ ! -e "$_stamp" ]; then
        [ -w . ] || { echo "$PWD cannot be written, so no .venv can be made in it; activate an environment that has this package" >&2; exit 2; }
        _python=$(_find_python) || exit 1
        echo "Setting up .venv with $("$_python" --version) (about 5 GB, one to three minutes; once only)"
        "$_python" -m venv --clear .venv || {
            echo "could not make .venv; on Debian and Ubuntu: apt install python3-venv" >&2
            exit 1
        }
        _pip=".venv/bin/python -m pip --quiet --disable-pip-version-check"
        # uv takes a third of pip's time, but knows nothing of pip's configuration: where it fails, pip does it or says why not.
        # Compiled, because where PYTHONDONTWRITEBYTECODE is set (most containers) each process would compile PyTorch again.
        { $_pip install uv && .venv/bin/uv pip install --compile-bytecode --python .venv/bin/python -r requirements.lock; } 2>/dev/null ||
            { echo "Installing with pip instead of uv"; $_pip install -r requirements.lock; } || exit 1
        $_pip install --no-deps --editable . || exit 1
        touch "$_stamp"
    fi
    PY=$PWD/.venv/bin/python
fi
export JUPYTER_PREFER_ENV_PATH=1 # this environment's kernel, not one of the same name in the home directory
