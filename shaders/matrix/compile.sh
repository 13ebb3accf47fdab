#!/usr/bin/env bash
# Compiles the kernels for matrix units into shaders/matrix/spirv, which is committed: GL_KHR_cooperative_matrix
# needs glslang 13 or later, and Debian 12 has 11. Run it after changing one of them or what they include.
#
#   shaders/matrix/compile.sh [GLSLANG]     glslang's program; default: the first glslang on PATH
#
# The committed modules are what glslang 16.5 makes of their sources, to the bit; 13 numbers them differently.
set -euo pipefail
cd "$(dirname "$0")"
glslang=${1:-glslang}
version=$("$glslang" --version | sed -n 's/^Glslang Version: [0-9]*:\([0-9]*\).*/\1/p')
if (( ${version:-0} < 13 )); then
    echo "compile.sh: $glslang is version ${version:-unknown}, 13 or later is needed" >&2
    exit 1
fi

# compile STEM SUFFIX [DEFINES]
compile() {
    "$glslang" -V --quiet --target-env vulkan1.2 -I../include -I. "${@:3}" -o "spirv/$1_$2.spv" "$1.comp"
}
# Tiles of 4 x 4 matrices a subgroup, and of 2 x 2 for few outputs. 64 bytes a turn: with 128 the registers of the
# operands in flight cost more than fewer barriers save (NVIDIA H200, W4A8 at 4096x5120x5120: 381 against 435 TOP/s).
for tiles in 4 2; do
    shape=(-DROW_TILES=$tiles -DCOLUMN_TILES=$tiles -DTURN_BYTES=64)
    for bits in 4 6 8; do
        compile gemm_matrix w${bits}_$tiles -DWEIGHT_BITS=$bits "${shape[@]}"
    done
    compile gemm_matrix half_$tiles -DWEIGHT_HALF "${shape[@]}"
done
# Heads of 64 and of 128 columns, 16 queries a subgroup (32 spill), tiles of 32 keys.
for dim in 64 128; do
    shape=(-DROW_TILES=1 -DCOLUMN_TILES=2 -DDIM_TILES=$((dim / 16)))
    compile attention_matrix dense_$dim "${shape[@]}"
    compile attention_matrix sparse_$dim -DSPARSE "${shape[@]}"
done
compile peak_matrix int8 -DPEAK_INT8
compile peak_matrix half -DPEAK_HALF
# What the modules were made from, which the build compares.
sha256sum *.comp *.glsl ../include/constants.glsl ../include/epilogue.glsl ../include/attention.glsl \
    ../include/attention_operands.glsl ../include/gemm_float_push.glsl ../include/gemm_quantized_push.glsl \
    ../include/loads.glsl ../include/residual.glsl ../include/sight.glsl >spirv/sources.sha256
