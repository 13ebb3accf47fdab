#!/usr/bin/env bash
# Installs what is missing, builds, and runs every test on each Vulkan CPU driver there is, with the
# Khronos validation layers and their synchronisation checks on. Fails on a failed test, on any
# validation message and on any warning in our code (warnings are errors in the build).
#
#   tests/run.sh              Debian 12, as root or with sudo; 20 to 30 minutes on two cores
#   tests/run.sh -L unit      arguments go to ctest
#   tests/run.sh --nightly    after all that, what is slow and rarely breaks, too
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
started=$SECONDS
nightly=0
if [[ ${1:-} == --nightly ]]; then
    nightly=1
    shift
fi

samples/install_packages.sh --tests
cmake --preset release >build-configure.log 2>&1 || { cat build-configure.log; exit 1; }
rm -f build-configure.log
cmake --build --preset release -j "$(nproc)"
echo "built in $(( SECONDS - started )) s"

# Layers for every Vulkan program below, whether it asks for them or not.
export VK_INSTANCE_LAYERS=VK_LAYER_KHRONOS_validation
export VK_LAYER_SETTINGS_PATH=$root/tests/support/vk_layer_settings.txt
log=$root/build/release/Testing/Temporary/LastTest.log
failed=0

# run_tests NAME [ctest arguments]: one ctest run, its log searched for validation messages.
run_tests() {
    local name=$1
    shift
    echo "== $name"
    ctest --test-dir build/release --output-on-failure --no-tests=error "$@" || failed=1
    if grep -nE 'VUID-|UNASSIGNED-|SYNC-HAZARD|Validation (Error|Warning)' "$log"; then
        echo "validation messages on $name, see above" >&2
        failed=1
    fi
}

if (( $# > 0 )); then
    run_tests "$*" "$@"
else
    run_tests "no device" -L '^(unit|fuzz|calib|train)$' -j "$(nproc)"
    tested=0
    skip=()
    for driver in /usr/share/vulkan/icd.d/lvp_icd*.json /usr/lib/chromium/vk_swiftshader_icd.json; do
        [[ -e $driver ]] || continue
        export VK_DRIVER_FILES=$driver VK_ICD_FILENAMES=$driver
        # Two at a time: what takes long is the drivers' compilers, which use one core.
        run_tests "$(basename "$driver" .json)" -LE '^(unit|fuzz|calib|train)$' -j 2 "${skip[@]}"
        # The first chooses its driver itself, the others are about packages: once is enough.
        skip=(-E '^(golden.swiftshader|c_interface.package|c_interface.python)$')
        tested=$(( tested + 1 ))
    done
    if (( tested == 0 )); then
        echo "no Vulkan CPU driver found: install mesa-vulkan-drivers" >&2
        failed=1
    fi
fi

if (( nightly )); then
    run_tests "nightly" -C Nightly -L '^nightly$'
fi

# What the compiler for AMD GPUs makes of the kernels, against the committed figures: no GPU needed.
if (( $# == 0 )) && [[ -e /usr/share/vulkan/icd.d/radeon_icd.x86_64.json ]]; then
    echo "== kernels on RADV"
    env -u VK_INSTANCE_LAYERS build/release/bin/quantsparse-bench isa \
        --compare bench/results/isa-radv.json || failed=1
fi

minutes=$(( (SECONDS - started) / 60 ))
if (( failed )); then
    echo "tests/run.sh: FAILED after $minutes min"
    exit 1
fi
echo "tests/run.sh: all tests passed in $minutes min"
