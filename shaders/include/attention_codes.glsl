// Operands of attention_tiled.comp in codes of eight bits (variant INT8), after SageAttention (arXiv 2410.02367):
//
//   score[t, j] = scale_q[block of t] * scale_k[block of j] * sum_c q[t, c] k[j, c]      integer sum, exact
//
// k's mean over the tokens is taken out before, which no softmax sees; the softmax's own scale is part of scale_q.
// With kCodedValues the second product is one of codes, too: of a tile's probabilities, code = round(127 exp(score -
// maximum)) with the running maximum, and of v with a scale for each column:
//
//   out[t, c] = scale_v[c] * (sum over tiles of rescaled integer sums) / (sum of the rescaled probabilities' codes)
//
//   q, k   int8 [heads, *_stride, kDim16 * 16], 16 codes an element, zeros from padded_dim on (quantize_heads.comp)
//   v      kCodedValues: int8 [heads, kv_stride / 4, kDim16 * 16, 4 keys], 4 columns an element (quantize_values.comp);
//          else fp32 [heads, kv_stride, padded_dim]
//   scales fp32 [heads, blocks of q + blocks of k + kDim16 * 16 columns of v], in the bias's place; blocks of 64 tokens
//
// The sums of a score are exact up to heads of 1,040 columns, those of a tile up to as many keys (dot_codes.glsl).
#ifndef QUANTSPARSE_ATTENTION_CODES_GLSL
#define QUANTSPARSE_ATTENTION_CODES_GLSL

#define QUANTSPARSE_ATTENTION_OPERANDS_GLSL  // these take the place of attention_operands.glsl
layout(set = 0, binding = 0, std430) readonly buffer Q { uvec4 q_words[]; };
layout(set = 0, binding = 1, std430) readonly buffer K { uvec4 k_words[]; };
layout(set = 0, binding = 2, std430) readonly buffer V { uvec4 v_words[]; };
layout(set = 0, binding = 4, std430) readonly buffer Scales { float scales[]; };
vec4 load_v(uint i) { return uintBitsToFloat(v_words[i]); }

#include "attention.glsl"
#include "dot_codes.glsl"

layout(constant_id = 16) const uint kCodedValues = 0;
const uint kDim16 = (kDim4 + 3) / 4;
const uint kScaleBlock = 64;  // tokens; runtime/kernels/attention_codes.hpp

// A stride is the tokens rounded up to 16, so it has as many blocks as they do.
uint blocks_of(uint stride) { return (stride + kScaleBlock - 1) / kScaleBlock; }
uint scales_of(uint head) {
    return (p.first_head + head) * (blocks_of(p.q_stride) + blocks_of(p.kv_stride) + 16 * kDim16);
}
float query_scale(uint head, uint row) { return scales[scales_of(head) + row / kScaleBlock]; }
/// One for all of a lane's four keys, which lie in one block.
float key_scale(uint head, uint key) {
    return scales[scales_of(head) + blocks_of(p.q_stride) + key / kScaleBlock];
}
/// What the outputs of columns 4 d .. 4 d + 3 are multiplied with.
vec4 value_scale(uint head, uint d) {
    if (kCodedValues == 0) return vec4(1.0);
    const uint i = scales_of(head) + blocks_of(p.q_stride) + blocks_of(p.kv_stride) + 4 * d;
    return vec4(scales[i], scales[i + 1], scales[i + 2], scales[i + 3]);
}

struct Codes16 { OPERAND x, y, z, w; };

Codes16 codes16(uvec4 words) {
    return Codes16(operand(words.x), operand(words.y), operand(words.z), operand(words.w));
}
ACCUMULATOR accumulate16(Codes16 a, Codes16 b, ACCUMULATOR sum) {
    return accumulate(a.w, b.w, accumulate(a.z, b.z, accumulate(a.y, b.y, accumulate(a.x, b.x, sum))));
}

/// v of 16 keys from `key` on (over all heads that are bound) in columns 4 d .. 4 d + 3.
struct ValueCodes { Codes16 keys[4]; };

ValueCodes load_values(uint key, uint d) {
    ValueCodes values;
    [[unroll]] for (uint i = 0; i < 4; ++i) {
        values.keys[i] = codes16(v_words[(key / 4 + i) * (4 * kDim16) + d]);
    }
    return values;
}
/// `e`: codes of the 16 keys' probabilities.
ACCUMULATOR4 add_values(Codes16 e, ValueCodes v, ACCUMULATOR4 sum) {
    const OPERAND four[4] = OPERAND[4](e.x, e.y, e.z, e.w);
    [[unroll]] for (uint i = 0; i < 4; ++i) {
        sum.x = accumulate(four[i], v.keys[i].x, sum.x);
        sum.y = accumulate(four[i], v.keys[i].y, sum.y);
        sum.z = accumulate(four[i], v.keys[i].z, sum.z);
        sum.w = accumulate(four[i], v.keys[i].w, sum.w);
    }
    return sum;
}

/// Four codes of -127 to 127 in a word.
uint packed(vec4 codes) {
    const uvec4 bytes = uvec4(ivec4(codes)) & 0xFFu;
    return bytes.x | (bytes.y << 8) | (bytes.z << 16) | (bytes.w << 24);
}

#endif
