#!/usr/bin/env bash
# Renews constraints.txt: the versions that a fresh environment gets with the `dev` extra. Run the tests before you commit it.
#
# usage: tools/pin_versions.sh        torch 2.13.0 and the triton that its CUDA builds ask for
#        TORCH=2.14.0 TRITON=3.8.0 tools/pin_versions.sh
set -euo pipefail
cd "$(dirname "$0")/.."

environment=$(mktemp -d)
trap 'rm -rf "$environment"' EXIT
"${PYTHON:-python3}" -m venv "$environment"
"$environment/bin/pip" install --quiet "torch==${TORCH:-2.13.0}" "triton==${TRITON:-3.7.1}" -e ".[dev]"
{
    echo "# The versions that CI tested: pip install -c constraints.txt -e \".[dev]\". Renewed by tools/pin_versions.sh."
    # torch's CPU and CUDA builds differ in the local part of the version only
    "$environment/bin/pip" freeze --exclude-editable | sed -E '/^(nvidia|cuda)-/d; s/^(torch==[0-9.]+)\+.*/\1/'
} >constraints.txt.new
mv constraints.txt.new constraints.txt
