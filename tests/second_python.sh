#!/bin/sh
# The fast tests on a second Python, newer than the first, with the newest jax it can have; skipped where there is none.
# usage: second_python.sh FIRST_PYTHON
set -eu
first=$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])')

found=
for version in 3.13 3.12; do
    [ "$version" = "$first" ] && continue
    for candidate in "python$version" "$HOME"/.pyenv/versions/"$version".*/bin/python; do
        if "$candidate" -c 'import venv, ensurepip' 2>/dev/null; then
            found=$candidate
            break 2
        fi
    done
done
if [ -z "$found" ]; then
    echo "No second Python (3.12 or 3.13) on this machine: its tests are skipped."
    exit 0
fi

venv=.venv-$version
if [ ! -e "$venv/.ready" ] || [ setup.py -nt "$venv/.ready" ]; then
    "$found" -m venv "$venv"
    "$venv/bin/pip" install -q --disable-pip-version-check -e '.[test-fast]'
    touch "$venv/.ready"
fi
echo "Fast tests on Python $version with jax $("$venv/bin/python" -c 'import jax; print(jax.__version__)')."
JAX_PLATFORMS=cpu "$venv/bin/python" -m pytest -m 'not parity and not slow'
