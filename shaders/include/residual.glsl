// The correction that SSAR adds to sparse attention between two refreshes, for the four columns
// 4 d4 .. 4 d4 + 3 of a head and one token (original order):
//
//   sum_s coefficient[n][s] D_s[t, h, c] + gain[n] sum_r U[t, r] V[h head_dim + c, r]
//
// n is how many references the head has that belong to its present mask (0: nothing is added), so a
// head whose type flipped or whose residuals misbehave falls back by itself.
//
//   rows     uint32 [tokens, slots, slot words]: codes [heads, head words], then scales [heads]
//            half: two words for four columns; int8: one, scale * code; int4: one for eight columns
//   factors  U fp32 [tokens, rank], V fp32 [columns, rank], rank = 4 (kDelta4 + kDifference4): factors
//            of D itself (storage low rank) before those of the difference
//   heads    uint32 [4, heads]: usable references; all references; type; flips (residual_heads.comp)
//   control  Correction of attention/step_schedule.hpp
//
// The including kernel defines RESIDUAL_CONSTANT (first constant id), RESIDUAL_BINDING (first
// binding) and, to change rows, RESIDUAL_ACCESS.
#ifndef QUANTSPARSE_RESIDUAL_GLSL
#define QUANTSPARSE_RESIDUAL_GLSL

#ifndef RESIDUAL_ACCESS
#define RESIDUAL_ACCESS readonly
#endif

const uint kNoResidual = 0;
const uint kStoredHalf = 1;
const uint kStoredInt8 = 2;
const uint kStoredInt4 = 3;
const uint kStoredLowRank = 4;

layout(constant_id = RESIDUAL_CONSTANT) const uint kResidual = 0;
layout(constant_id = RESIDUAL_CONSTANT + 1) const uint kSlots = 1;
layout(constant_id = RESIDUAL_CONSTANT + 2) const uint kDelta4 = 0;
layout(constant_id = RESIDUAL_CONSTANT + 3) const uint kDifference4 = 0;
layout(constant_id = RESIDUAL_CONSTANT + 4) const uint kResidualHeads = 1;
layout(constant_id = RESIDUAL_CONSTANT + 5) const uint kResidualDim = 4;

const uint kHead4 = (kResidualDim + 3) / 4;
const uint kHeadWords = kResidual == kStoredHalf   ? 2 * kHead4
                        : kResidual == kStoredInt8 ? kHead4
                        : kResidual == kStoredInt4 ? (kHead4 + 1) / 2
                                                   : 0;
const uint kHasScales = kResidual == kStoredInt8 || kResidual == kStoredInt4 ? 1 : 0;
const uint kSlotWords = kResidualHeads * (kHeadWords + kHasScales);
const uint kFactor4 = kDelta4 + kDifference4;

#include "loads.glsl"
#ifdef TEXELS
LOADABLE_WORDS(residual_row, RESIDUAL_BINDING)
uint residual_word(uint i) { return load_residual_row(i / 4)[i % 4]; }
#else
layout(set = 0, binding = RESIDUAL_BINDING, std430) RESIDUAL_ACCESS buffer ResidualRows { uint residual_rows[]; };
uint residual_word(uint i) { return residual_rows[i]; }
#endif
LOADABLE(residual_u, RESIDUAL_BINDING + 1)
LOADABLE(residual_v, RESIDUAL_BINDING + 2)
layout(set = 0, binding = RESIDUAL_BINDING + 3, std430) readonly buffer ResidualHeads { uint residual_heads[]; };
layout(set = 0, binding = RESIDUAL_BINDING + 4, std430) readonly buffer ResidualControl {
    vec4 coefficients[4];  // xyz: of the slots, w: of the low-rank difference
    uint write_slot;
    uint read_slot;
    uint reference;
} residual_control;

/// What the codes of D_slot are multiplied with; `row` counts from the first row that is bound.
float residual_scale(uint row, uint slot, uint head) {
    if (kHasScales == 0) return 1.0;
    return uintBitsToFloat(residual_word((row * kSlots + slot) * kSlotWords + kResidualHeads * kHeadWords + head));
}

/// D_slot over its scale.
vec4 residual_codes(uint row, uint slot, uint head, uint d4) {
    const uint codes = (row * kSlots + slot) * kSlotWords + head * kHeadWords;
    if (kResidual == kStoredHalf) {
        return vec4(unpackHalf2x16(residual_word(codes + 2 * d4)),
                    unpackHalf2x16(residual_word(codes + 2 * d4 + 1)));
    }
    if (kResidual == kStoredInt8) {
        const int word = int(residual_word(codes + d4));
        return vec4(bitfieldExtract(word, 0, 8), bitfieldExtract(word, 8, 8),
                    bitfieldExtract(word, 16, 8), bitfieldExtract(word, 24, 8));
    }
    const int word = int(residual_word(codes + d4 / 2) >> (16 * (d4 & 1)));
    return vec4(bitfieldExtract(word, 0, 4), bitfieldExtract(word, 4, 4),
                bitfieldExtract(word, 8, 4), bitfieldExtract(word, 12, 4));
}

vec4 residual_stored(uint row, uint slot, uint head, uint d4) {
    return residual_scale(row, slot, head) * residual_codes(row, slot, head, d4);
}

/// Where the factors of four columns begin in V; those past the last repeat it.
uvec4 residual_v_rows(uint head, uint d4) {
    const uint column = head * kResidualDim + 4 * d4;
    const uint last = kResidualHeads * kResidualDim - 1;
    return min(column + uvec4(0, 1, 2, 3), uvec4(last)) * kFactor4;
}

/// U V^T over the factors first .. first + count - 1 (in fours).
vec4 residual_low_rank(uint token, uint head, uint d4, uint first, uint count) {
    const uint u = token * kFactor4 + first;
    const uvec4 v = residual_v_rows(head, d4) + first;
    vec4 y = vec4(0.0);
    for (uint k = 0; k < count; ++k) {
        const vec4 a = load_residual_u(u + k);
        y += vec4(dot(a, load_residual_v(v.x + k)), dot(a, load_residual_v(v.y + k)),
                  dot(a, load_residual_v(v.z + k)), dot(a, load_residual_v(v.w + k)));
    }
    return y;
}

/// Coefficients of a head's slots (xyz) and its gain (w).
vec4 residual_weight(uint head) {
    return residual_control.coefficients[min(residual_heads[head], 3u)];
}

/// `row`: of the bound rows; `token`: of all; `weight`: residual_weight(head).
vec4 residual_at(uint row, uint token, uint head, uint d4, vec4 weight) {
    vec4 y = vec4(0.0);
    if (kResidual == kStoredLowRank) {
        if (kDelta4 > 0 && weight.x != 0.0) y += weight.x * residual_low_rank(token, head, d4, 0, kDelta4);
    } else {
        // A slot without weight may never have been written: it isn't read.
        for (uint slot = 0; slot < kSlots; ++slot) {
            if (weight[slot] != 0.0) y += weight[slot] * residual_stored(row, slot, head, d4);
        }
    }
    if (kDifference4 > 0 && weight.w != 0.0) {
        y += weight.w * residual_low_rank(token, head, d4, kDelta4, kDifference4);
    }
    return y;
}

/// The residual of the reference before, as it was added; zero for a head that has none.
vec4 residual_before(uint row, uint token, uint head, uint d4) {
    if (residual_heads[kResidualHeads + head] == 0) return vec4(0.0);
    if (kResidual == kStoredLowRank) return residual_low_rank(token, head, d4, 0, kDelta4);
    return residual_stored(row, residual_control.read_slot, head, d4);
}

#endif
