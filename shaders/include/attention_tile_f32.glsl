// A tile of attention_tiled.comp: its scores, their exponentials and what they add to the sums, in fp32.
#ifndef QUANTSPARSE_ATTENTION_TILE_F32_GLSL
#define QUANTSPARSE_ATTENTION_TILE_F32_GLSL

vec4 sum[kQueries][kVectors];  // the team's outputs so far, this invocation's vec4
vec4 score[kQueries];          // of this invocation's keys

/// exp(score - largest) of fours begin .. begin + kPart - 1 of a row, in their place. Returns their sum.
vec4 exponentials_f32(uint row, uint begin, float largest) {
    vec4 total = vec4(0.0);
    [[dont_unroll]] for (uint j = begin; j < begin + kPart; ++j) {
        const vec4 e = exp(scores[row][j] - largest);
        scores[row][j] = e;
        total += e;
    }
    return total;
}

/// The tile's exponentials times its values, to the i-th vec4 of the sums, which is the d-th of a head.
void add_values_f32(uint i, uint d, uint own, uint kv_head, uint first, uint tile_keys) {
    for (uint j = 0; j < tile_keys; j += 4) {
        // Keys past the end have probability zero; their values are those of the last key.
        const uint last = p.keys - 1;
        const vec4 v0 = load_v((kv_head + first + j) * kDim4 + d);
        const vec4 v1 = load_v((kv_head + min(first + j + 1, last)) * kDim4 + d);
        const vec4 v2 = load_v((kv_head + min(first + j + 2, last)) * kDim4 + d);
        const vec4 v3 = load_v((kv_head + min(first + j + 3, last)) * kDim4 + d);
        [[unroll]] for (uint t = 0; t < kQueries; ++t) {
            const vec4 e = scores[own + t][j / 4];
            sum[t][i] += e.x * v0 + e.y * v1 + e.z * v2 + e.w * v3;
        }
    }
}

#ifndef INT8
void multiply_keys(uint head, uint key0, uint row0, uint last_row) {
    const uint q_head = head * p.q_stride;
    const uint kv_head = head * p.kv_stride;
    const uint last = p.keys - 1;
    const uint k0 = (kv_head + min(key0, last)) * kDim4;
    const uint k1 = (kv_head + min(key0 + 1, last)) * kDim4;
    const uint k2 = (kv_head + min(key0 + 2, last)) * kDim4;
    const uint k3 = (kv_head + min(key0 + 3, last)) * kDim4;
    [[unroll]] for (uint t = 0; t < kQueries; ++t) score[t] = vec4(0.0);
    [[dont_unroll]] for (uint d = 0; d < kDim4; ++d) {
        const vec4 a = load_k(k0 + d);
        const vec4 b = load_k(k1 + d);
        const vec4 c = load_k(k2 + d);
        const vec4 e = load_k(k3 + d);
        [[unroll]] for (uint t = 0; t < kQueries; ++t) {
            const vec4 q = load_q((q_head + min(row0 + t, last_row)) * kDim4 + d);
            score[t] += vec4(dot(q, a), dot(q, b), dot(q, c), dot(q, e));
        }
    }
}

/// Scores as the softmax takes them.
vec4 scaled_score(uint t, uint head, uint row, uint key0) {
    vec4 s = score[t] * p.scale;
    if (kHasBias != 0) s += position_bias(head, row, key0);
    return s;
}

vec4 exponentials(uint row, uint begin, float largest) { return exponentials_f32(row, begin, largest); }

void add_tile(uint i, uint d, uint own, uint kv_head, uint first, uint tile_keys) {
    add_values_f32(i, d, own, kv_head, first, tile_keys);
}

/// What the sums of a query are multiplied with, from its denominator: zero where its list is empty.
float normaliser(float whole) { return whole > 0.0 ? 1.0 / whole : 0.0; }

vec4 output_of(vec4 sums, float normalise, uint head, uint d) { return sums * normalise; }
#endif

#endif
