#!/usr/bin/env bash
# From a fresh clone to a video: installs what is missing, builds, calibrates the bundled model to
# W4A8 with the method's own preset (a third of its epochs, to save time), and generates one clip
# four times: unquantised, W4A8, W4A8 with sparse attention and its cached residual (SSAR), and W4A8
# in four steps without guidance, with the LoRA that was trained for them.
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

quantized=$out/shapes-tiny-w4a8.safetensors
generate() {  # generate NAME MODEL FLAGS...: a clip and its frames
    local name=$1 from=$2
    shift 2
    "$bin/quantsparse-video" -m "$from" -p "$prompt" --seed "$seed" "$@" \
        -o "$out/$name.mp4" -o "$out/frames-$name/" 2> >(tee "$out/$name.log" >&2)
}
denoising() { sed -n 's/.*denoise \([^,]*\).*/\1/p' "$out/$1.log" | tail -n 1; }
against_unquantised() { "$bin/quantsparse-compare" "$out/frames-$1" "$out/frames-unquantised"; }

mkdir -p "$out"
stage "installing packages" samples/install_packages.sh
stage "building" build
stage "calibrating to W4A8" "$bin/quantsparse-calibrate" --model "$model" --output "$quantized" \
    --preset full --epochs 5 --weights 4 --activations 8
stage "generating, W4A8 + sparse + SSAR" generate clip "$quantized" --attention sparse --density 0.25
stage "generating, W4A8" generate w4a8 "$quantized"
stage "generating, unquantised" generate unquantised "$model"
stage "generating, W4A8, four steps" generate four-steps "$quantized" \
    --lora "$model/lora-4-steps.safetensors" --timesteps 1000,750,500,250 --guidance-scale 1

echo
echo "the clip:            $PWD/$out/clip.mp4 (W4A8, 25 % of attention, SSAR)"
echo "others:              $PWD/$out/w4a8.mp4 unquantised.mp4"
echo "prompt, seed:        \"$prompt\", $seed"
echo "against unquantised: W4A8 + sparse + SSAR: $(against_unquantised clip)"
echo "                     W4A8:                 $(against_unquantised w4a8)"
echo "in four steps:       $PWD/$out/four-steps.mp4 (W4A8 with a LoRA, no guidance)"
echo "denoising:           $(denoising w4a8) in 20 guided steps, $(denoising four-steps) in four"
echo "transformer:         $(bytes "$model/transformer") as bundled"
echo "whole model:         $(bytes "$model") as bundled, $(bytes "$quantized") at W4A8"
echo
printf '%s\n' "${times[@]}"
printf '%-34s %4d s\n' "all" "$SECONDS"
