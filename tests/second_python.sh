#!/bin/sh
# A smoke test on a second Python, newer than the first, with the newest jax it can have: everything is imported, one
# step is trained, one text is encoded. Skipped where there is no second Python.
# usage: second_python.sh FIRST_PYTHON
set -eu
first=$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])')

second=
for version in 3.13 3.12; do
    [ "$version" = "$first" ] && continue
    for candidate in "python$version" "$HOME"/.pyenv/versions/"$version".*/bin/python; do
        if "$candidate" -c 'import venv, ensurepip' 2>/dev/null; then
            second=$candidate
            break 2
        fi
    done
done
if [ -z "$second" ]; then
    echo "There is no second Python (3.12 or 3.13) on this machine: the smoke test is skipped."
    exit 0
fi

venv=.venv-$version
if [ ! -e "$venv/.ready" ] || [ setup.py -nt "$venv/.ready" ]; then
    "$second" -m venv "$venv"
    "$venv/bin/pip" install -q --disable-pip-version-check --no-compile -e '.[smoke,eval,curate]'
    touch "$venv/.ready"
fi
echo "Smoke test on Python $version with jax $("$venv/bin/python" -c 'import jax; print(jax.__version__)')."
JAX_PLATFORMS=cpu "$venv/bin/python" -m pytest tests/smoke
