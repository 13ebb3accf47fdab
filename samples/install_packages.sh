#!/usr/bin/env bash
# Installs the Debian packages quantsparse needs; does nothing when all of them are there.
#
#   samples/install_packages.sh           to build and to run
#   samples/install_packages.sh --tests   and to test
set -euo pipefail

packages=(
    # tools
    ca-certificates ccache cmake g++ glslc ninja-build pkg-config spirv-tools
    # runtime and samples
    libavcodec-dev libavformat-dev libavutil-dev libcli11-dev libfmt-dev
    libsentencepiece-dev libstb-dev libswscale-dev libvulkan-dev mesa-vulkan-drivers
    nlohmann-json3-dev
    # calibrator
    libopenblas0-pthread libtorch-dev
    # the tests are part of the default build
    libgtest-dev python3
)
if [[ ${1:-} == --tests ]]; then
    # chromium brings SwiftShader, a second Vulkan driver and the poorest one to hold
    packages+=(abigail-tools chromium clang-format ffmpeg python3-numpy python3-pil python3-sentencepiece
        python3-torch vulkan-validationlayers)
fi

missing=()
for package in "${packages[@]}"; do
    status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [[ $status == installed ]] || missing+=("$package")
done
if (( ${#missing[@]} == 0 )); then
    exit 0
fi

as_root=()
if (( EUID != 0 )); then
    command -v sudo >/dev/null || {
        echo "install_packages.sh: run as root or install sudo; missing: ${missing[*]}" >&2
        exit 1
    }
    as_root=(sudo)
fi
install() {
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "${missing[@]}"
}

echo "installing ${#missing[@]} packages: ${missing[*]}" >&2
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# The package lists are refreshed only when they are absent or out of date.
refresh_and_install() { "${as_root[@]}" apt-get update -qq && install; }
if ! install >"$log" 2>&1 && ! refresh_and_install >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    echo "install_packages.sh: installing failed, see above" >&2
    exit 1
fi
