// A tile of attention_tiled.comp on codes of eight bits (attention_codes.glsl), as attention_tile_f32.glsl has it in fp32.
#ifndef QUANTSPARSE_ATTENTION_TILE_INT8_GLSL
#define QUANTSPARSE_ATTENTION_TILE_INT8_GLSL

#include "attention_tile_f32.glsl"

// Codes of a tile's probabilities, 16 keys an element.
shared uvec4 probabilities[kCodedValues != 0 ? kTeams * kQueries : 1][kLanes / 4 + 1];

void multiply_keys(uint head, uint key0, uint row0, uint last_row) {
    const uint q_head = head * p.q_stride;
    const uint kv_head = head * p.kv_stride;
    const uint last = p.keys - 1;
    const uint k0 = (kv_head + min(key0, last)) * kDim16;
    const uint k1 = (kv_head + min(key0 + 1, last)) * kDim16;
    const uint k2 = (kv_head + min(key0 + 2, last)) * kDim16;
    const uint k3 = (kv_head + min(key0 + 3, last)) * kDim16;
    ACCUMULATOR4 products[kQueries];
    [[unroll]] for (uint t = 0; t < kQueries; ++t) products[t] = ACCUMULATOR4(0);
    [[dont_unroll]] for (uint d = 0; d < kDim16; ++d) {
        const Codes16 a = codes16(k_words[k0 + d]);
        const Codes16 b = codes16(k_words[k1 + d]);
        const Codes16 c = codes16(k_words[k2 + d]);
        const Codes16 e = codes16(k_words[k3 + d]);
        [[unroll]] for (uint t = 0; t < kQueries; ++t) {
            const Codes16 q = codes16(q_words[(q_head + min(row0 + t, last_row)) * kDim16 + d]);
            products[t].x = accumulate16(q, a, products[t].x);
            products[t].y = accumulate16(q, b, products[t].y);
            products[t].z = accumulate16(q, c, products[t].z);
            products[t].w = accumulate16(q, e, products[t].w);
        }
    }
    const float k_scale = key_scale(head, min(key0, last));
    [[unroll]] for (uint t = 0; t < kQueries; ++t) {
        score[t] = vec4(products[t]) * (query_scale(head, min(row0 + t, last_row)) * k_scale);
    }
}

vec4 scaled_score(uint t, uint head, uint row, uint key0) { return score[t]; }

vec4 exponentials(uint row, uint begin, float largest) {
    vec4 total = vec4(0.0);
    if (kCodedValues != 0) {
        // The codes are summed, not what was rounded: weights add up to one. A part is kQueries fours, so whole
        // elements.
        [[dont_unroll]] for (uint j = begin; j < begin + kPart; j += 4) {
            uvec4 words;
            [[unroll]] for (uint i = 0; i < 4; ++i) {
                const vec4 e = roundEven(127.0 * exp(scores[row][j + i] - largest));
                words[i] = packed(e);
                total += e;
            }
            probabilities[row][j / 4] = words;
        }
    } else {
        total = exponentials_f32(row, begin, largest);
    }
    return total;
}

void add_tile(uint i, uint d, uint own, uint kv_head, uint first, uint tile_keys) {
    if (kCodedValues != 0) {
        ACCUMULATOR4 products[kQueries];
        [[unroll]] for (uint t = 0; t < kQueries; ++t) products[t] = ACCUMULATOR4(0);
        // Keys past the end have probability zero, and codes up to a multiple of 16.
        [[dont_unroll]] for (uint j = 0; j < tile_keys; j += 16) {
            const ValueCodes values = load_values(kv_head + first + j, d);
            [[unroll]] for (uint t = 0; t < kQueries; ++t) {
                products[t] = add_values(codes16(probabilities[own + t][j / 16]), values, products[t]);
            }
        }
        [[unroll]] for (uint t = 0; t < kQueries; ++t) sum[t][i] += vec4(products[t]);
    } else {
        add_values_f32(i, d, own, kv_head, first, tile_keys);
    }
}

/// Codes lose a NaN, which shows here: as itself, or as the infinity that some drivers' exp makes of it.
float normaliser(float whole) { return whole > 0.0 && whole < 1.0e30 ? 1.0 / whole : whole; }

vec4 output_of(vec4 sums, float normalise, uint head, uint d) { return sums * normalise * value_scale(head, d); }

#endif
