#!/usr/bin/env bash
# PSNR of each bit width against the unquantised model, same prompts and seeds, as a JSON table.
#
#   bench/quality_bits.sh                       bundled model, 8 prompts, 96x96, 9 frames, 20 steps
#   SIZE=192x192 FRAMES=33 bench/quality_bits.sh     at its native size
# A pair without any difference counts as 99 dB.
#   DEVICE=llvmpipe CONFIGS="4:8" bench/quality_bits.sh
#
# Needs a built tree (cmake --build --preset release). Results go to $OUT (default out/quality-bits).
set -euo pipefail
cd "$(dirname "$0")/.."

model=${MODEL:-samples/models/shapes-tiny}
out=${OUT:-out/quality-bits}
settings=(--size "${SIZE:-96x96}" --frames "${FRAMES:-9}" --steps "${STEPS:-20}" --progress none --quiet)
[[ -n ${DEVICE:-} ]] && settings+=(--device "$DEVICE")
bin=build/release/bin
prompts=(
    "a large red circle moves right on a black background"
    "a large blue square moves left on a white background"
    "a large green triangle moves up on a gray background"
    "a large yellow star moves down on a navy background"
    "a large purple square grows on a white background"
    "a large cyan triangle moves right on a navy background"
    "a large green circle moves left on a white background"
    "a large red star moves up on a gray background"
)

mkdir -p "$out"
for i in "${!prompts[@]}"; do
    [[ -d $out/reference-$i ]] || "$bin/quantsparse-video" -m "$model" -p "${prompts[i]}" \
        --seed "$i" "${settings[@]}" -o "$out/reference-$i/"
done

rows=()
for config in ${CONFIGS:-8:8 6:6 4:8}; do
    weights=${config%:*} activations=${config#*:}
    name=w${weights}a${activations}
    "$bin/quantsparse-calibrate" --model "$model" --output "$out/$name.safetensors" --preset fast \
        --weights "$weights" --activations "$activations" >"$out/$name.log" 2>&1
    values=()
    for i in "${!prompts[@]}"; do
        rm -rf "$out/$name-$i"
        "$bin/quantsparse-video" -m "$out/$name.safetensors" -p "${prompts[i]}" --seed "$i" \
            "${settings[@]}" -o "$out/$name-$i/"
        psnr=$("$bin/quantsparse-compare" "$out/$name-$i" "$out/reference-$i" |
            grep -oE '[0-9]+\.[0-9]+ dB' | head -1 | cut -d' ' -f1)
        values+=("${psnr:-99}")
    done
    joined=$(IFS=,; echo "${values[*]}")
    mean=$(printf '%s\n' "${values[@]}" | awk '{s+=$1} END {printf "%.2f", s/NR}')
    echo "$name: mean $mean dB over ${#prompts[@]} prompts ($joined)" >&2
    rows+=("{\"config\": \"$name\", \"mean_psnr_db\": $mean, \"psnr_db\": [$joined]}")
done
device=$("$bin/quantsparse-video" --list-devices | head -1 | sed 's/^[* ]*[0-9]*: //')
printf '{"device": "%s", "model": "%s", "settings": "%s", "rows": [\n  %s\n]}\n' "$device" "$model" \
    "${settings[*]}" "$(IFS=$'\n'; echo "${rows[*]}" | sed '$!s/$/,/; 2,$s/^/  /')"
