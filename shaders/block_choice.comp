// Which key blocks each query block attends to, as bits (block_choice.glsl): those that are always seen, then those of
// the highest scores. A block is chosen when fewer than `keep` are ahead of it, or (kTopP) when those ahead hold less
// than top_p of the row's softmax. Of equal scores the lower block is ahead.
//
//   scores  fp32 [heads, blocks, 4 * stride4]: block_scores.comp
//   choice  uint32 [heads, blocks, words]
//   always  uint32 [blocks, words] (kAlways): blocks that are always seen, too
//
// Always seen are the blocks before `prefix` and from `suffix` on, and the `near` ones from `reach` before the row's own
// on. Rows before `full_end`
// and from `full_begin` on see everything.
//
// Nothing is sorted: how many are ahead of a block, and what they hold, is summed over the row, in the order of blocks. So
// a sum over more blocks is never less, whatever is rounded, and the chosen ones are the first of the sorted row.
// A work-group owns a row (x) of a head (y), an invocation 32 blocks of it at a time.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#include "constants.glsl"
#include "block_choice.glsl"

layout(constant_id = 1) const uint kTopP = 0;
layout(constant_id = 2) const uint kAlways = 0;
layout(constant_id = 3) const uint kBeside = 0;  // of the blocks that are always seen: not among the `keep` best

layout(set = 0, binding = 0, std430) readonly buffer Scores { vec4 scores[]; };
layout(set = 0, binding = 1, std430) writeonly buffer Choice { uint choice[]; };
layout(set = 0, binding = 2, std430) readonly buffer Always { uint always[]; };

layout(push_constant) uniform Push {
    uint blocks;
    uint stride4;
    uint words;
    uint first_head;  // of `choice`; `scores` are bound from this head on
    uint prefix;
    uint suffix;
    uint reach;
    uint near;
    uint full_end;
    uint full_begin;
    uint keep;
    float top_p;
} p;

const uint kFours = 8;  // of the blocks that an invocation owns
const uint kForced = 0xFFFFFFF0u;

bvec4 forced(uvec4 block, uint row) {
    const uvec4 near = uvec4(lessThan(block + p.reach - row, uvec4(p.near)));  // wraps around before them
    const uvec4 outer = uvec4(lessThan(block, uvec4(p.prefix))) | uvec4(greaterThanEqual(block, uvec4(p.suffix)));
    uvec4 yes = near | outer;
    if (kAlways != 0) {
        const uint first = min(block.x, p.blocks - 1);  // of four in one word
        yes |= uvec4(always[row * p.words + first / 32]) >> (block % 32) & 1;
    }
    return notEqual(yes & uvec4(lessThan(block, uvec4(p.blocks))), uvec4(0));
}

/// The scores of four blocks in bits that order as they do, below those of blocks that are forced.
uvec4 rank_bits(vec4 score, uvec4 block, uint row) {
    const uvec4 bits = floatBitsToUint(score);
    const uvec4 ordered = bits ^ mix(uvec4(0x80000000u), uvec4(0xFFFFFFFFu), greaterThanEqual(bits, uvec4(0x80000000u)));
    if (kBeside != 0) return ordered;
    return mix(ordered, uvec4(kForced), forced(block, row));
}

void main() {
    const uint row = gl_WorkGroupID.x;
    const uint base = (gl_WorkGroupID.y * p.blocks + row) * p.stride4;
    const uint out_base = ((p.first_head + gl_WorkGroupID.y) * p.blocks + row) * p.words;
    const bool full = row < p.full_end || row >= p.full_begin;
    const uvec4 step = uvec4(0, 1, 2, 3);
    float maximum = scores[base].x;
    if (kTopP != 0) {
        for (uint i = 0; i < p.stride4; ++i) {
            const vec4 s = scores[base + i];
            maximum = max(maximum, max(max(s.x, s.y), max(s.z, s.w)));
        }
    }
    for (uint word = gl_LocalInvocationID.x; word < p.words; word += gl_WorkGroupSize.x) {
        const uint first = 32 * word;
        uvec4 own[kFours];
        uvec4 ahead[kFours];
        vec4 mass[kFours];
        float total = 0.0;
        [[unroll]] for (uint v = 0; v < kFours; ++v) {
            const uint four = min(8 * word + v, p.stride4 - 1);
            own[v] = rank_bits(scores[base + four], 4 * four + step, row);
            ahead[v] = uvec4(0);
            mass[v] = vec4(0.0);
        }
        for (uint i = 0; i < p.stride4; ++i) {
            const vec4 s = scores[base + i];
            const uvec4 other = rank_bits(s, 4 * i + step, row);
            vec4 e = vec4(0.0);
            if (kTopP != 0) e = exp(s - maximum);
            [[unroll]] for (uint c = 0; c < 4; ++c) {
                if (kTopP != 0) total += e[c];
                [[unroll]] for (uint v = 0; v < kFours; ++v) {
                    // One more makes a lower block of the same score come first.
                    const uvec4 lower = uvec4(lessThan(uvec4(4 * i + c), first + 4 * v + step));
                    const bvec4 is_ahead = greaterThan(other[c] + lower, own[v]);
                    ahead[v] += uvec4(is_ahead);
                    if (kTopP != 0) mass[v] += mix(vec4(0.0), vec4(e[c]), is_ahead);
                }
            }
        }
        uint chosen = 0;
        [[unroll]] for (uint v = 0; v < kFours; ++v) {
            uvec4 yes = uvec4(lessThan(ahead[v], uvec4(p.keep)));
            yes |= uvec4(forced(first + 4 * v + step, row));
            if (kTopP != 0) yes |= uvec4(lessThan(mass[v], vec4(p.top_p * total)));
            for (uint c = 0; c < 4; ++c) chosen |= yes[c] << (4 * v + c);
        }
        choice[out_base + word] = (full ? 0xFFFFFFFFu : chosen) & existing(first, p.blocks);
    }
}
