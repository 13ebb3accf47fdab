#!/usr/bin/env bash
# From a fresh clone to a video: installs what is missing, builds, calibrates the bundled model to
# W4A8, and generates one clip with the quantised and one with the unquantised model.
#
#   samples/quickstart.sh                 Debian 12, as root or with sudo; no GPU needed
#   samples/quickstart.sh "a blue star moves up on a white background"
set -euo pipefail
cd "$(dirname "$0")/.."

prompt=${1:-a large red circle moves right on a black background}
seed=42
model=samples/models/shapes-tiny
out=out/quickstart
bin=build/release/bin
settings=(--seed "$seed")

times=()
stage() {  # stage NAME COMMAND...: runs it and keeps how long it took
    local name=$1 begun=$SECONDS
    shift
    echo "== $name"
    "$@"
    times+=("$(printf '%-34s %4d s' "$name" $(( SECONDS - begun )))")
}

build() {
    cmake --preset release -DQUANTSPARSE_LIBAV=ON >/dev/null
    cmake --build --preset release -j "$(nproc)" \
        --target quantsparse-calibrate quantsparse-video quantsparse-compare
}

bytes() { du -sbL "$1" | cut -f1 | numfmt --to=iec-i --suffix=B --format=%.1f; }

mkdir -p "$out"
stage "installing packages" samples/install_packages.sh
stage "building" build
stage "calibrating to W4A8" "$bin/quantsparse-calibrate" --model "$model" \
    --output "$out/shapes-tiny-w4a8.safetensors" --preset fast --weights 4 --activations 8
stage "generating with W4A8" "$bin/quantsparse-video" -m "$out/shapes-tiny-w4a8.safetensors" \
    -p "$prompt" "${settings[@]}" -o "$out/clip.mp4" -o "$out/frames-w4a8/"
stage "generating unquantised" "$bin/quantsparse-video" -m "$model" \
    -p "$prompt" "${settings[@]}" -o "$out/clip-unquantised.mp4" -o "$out/frames-unquantised/"

echo
echo "the clip:         $PWD/$out/clip.mp4"
echo "unquantised:      $PWD/$out/clip-unquantised.mp4"
echo "prompt, seed:     \"$prompt\", $seed"
echo "W4A8 against it:  $("$bin/quantsparse-compare" "$out/frames-w4a8" "$out/frames-unquantised")"
echo "transformer:      $(bytes "$model/transformer") as bundled"
echo "whole model:      $(bytes "$model") as bundled, $(bytes "$out/shapes-tiny-w4a8.safetensors") at W4A8"
echo
printf '%s\n' "${times[@]}"
printf '%-34s %4d s\n' "all" "$SECONDS"
