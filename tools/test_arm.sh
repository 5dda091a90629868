#!/usr/bin/env bash
# Runs the Numba conformance suite on an emulated 64-bit ARM CPU: a Debian arm64 root without a second stage, the aarch64
# wheels of Numba and what the tests need, and qemu's user mode. Needs root, and the packages qemu-user-static and
# debootstrap. The root is made once and kept.
#
# usage: tools/test_arm.sh [PYTEST ARGUMENTS]      by default: tests/kernels/numba
#        tools/test_arm.sh -c CODE                 runs Python code there instead
#
# BITNET_JIT_ARM_ROOT       where the root is kept (build/arm64)
# BITNET_JIT_ARM_SUITE      the Debian release (bookworm)
# BITNET_JIT_TEST_CONFIGS   "all" tries every config of a kernel, not just the first
# PYTHON                    the Python whose pip fetches the wheels (python3)
set -euo pipefail
cd "$(dirname "$0")/.."

root=$(realpath -m "${BITNET_JIT_ARM_ROOT:-build/arm64}")
suite=${BITNET_JIT_ARM_SUITE:-bookworm}
mirror=http://deb.debian.org/debian
python=${PYTHON:-python3}

for tool in debootstrap qemu-aarch64-static dpkg-deb; do
    if ! command -v "$tool" >/dev/null; then
        echo "test_arm: $tool is missing; apt-get install debootstrap qemu-user-static" >&2
        exit 1
    fi
done

# The first stage downloads everything and unpacks a part; no package is configured, so nothing has to run in the root.
make_root() {
    rm -rf "$root/debian"
    mkdir -p "$root"
    debootstrap --foreign --variant=minbase --arch=arm64 --include=python3,libgomp1,libstdc++6 \
        "$suite" "$root/debian" "$mirror" >"$root/debootstrap.log" 2>&1 ||
        { tail -20 "$root/debootstrap.log" >&2; return 1; }
    for package in "$root"/debian/var/cache/apt/archives/*.deb; do
        dpkg-deb --extract "$package" "$root/debian"
    done
    rm -rf "$root"/debian/var/cache/apt/archives
    touch "$root/debian/complete"
}

python_version() {
    basename "$(find "$root/debian/usr/bin" -name 'python3.[0-9]*' | sort | head -1)" | sed 's/^python//'
}

unpack_wheels() {
    local site=$root/site-$1 platform platforms=()
    rm -rf "$site"
    for platform in manylinux_2_28 manylinux_2_27 manylinux_2_17 manylinux2014; do
        platforms+=(--platform "${platform}_aarch64")
    done
    "$python" -m pip install --quiet --no-compile --only-binary=:all: --python-version "$1" "${platforms[@]}" \
        --constraint constraints.txt --target "$site" numba numpy platformdirs pytest hypothesis
    cp constraints.txt "$site/constraints.txt"
}

[ -e "$root/debian/complete" ] || make_root
version=$(python_version)
cmp -s constraints.txt "$root/site-$version/constraints.txt" || unpack_wheels "$version"

# NUMBA_CPU_NAME alone would keep the features of the emulated CPU, so they are named too.
export NUMBA_CPU_NAME=neoverse-n1 NUMBA_CPU_FEATURES=+neon,+dotprod
export NUMBA_CACHE_DIR=$root/numba-cache BITNET_JIT_CACHE_DIR=$root/cache
export PYTHONPATH=$root/site-$version:$PWD PYTHONDONTWRITEBYTECODE=1 PYTHONNOUSERSITE=1
export BITNET_JIT_TEST_CONFIGS=${BITNET_JIT_TEST_CONFIGS:-first} # of each kernel
emulated=(qemu-aarch64-static -cpu max -L "$root/debian" "$root/debian/usr/bin/python$version")

if [ "${1:-}" = -c ]; then
    exec "${emulated[@]}" "$@"
fi
[ $# -gt 0 ] || set -- tests/kernels/numba
exec "${emulated[@]}" -m pytest -p no:cacheprovider "$@"
