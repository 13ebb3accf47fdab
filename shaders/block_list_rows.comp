// Where each row of a list of blocks begins (kernels/attention.hpp), from the chosen blocks.
//
//   choice   uint32 [heads, blocks, words]: block_choice.glsl
//   row_ptr  uint32 [heads, blocks + 1]: of head h from h * head_entries on. kComplete: [heads, 2 * (blocks + 1)], of
//            each row first where the chosen blocks begin, then where the others do; the last of a head is not used
//
// A work-group owns a head, its invocations ranges of rows.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "constants.glsl"

layout(constant_id = 1) const uint kLanes = 16;  // the work-group's width again: sizes an array
layout(constant_id = 2) const uint kComplete = 0;

layout(set = 0, binding = 0, std430) readonly buffer Choice { uint choice[]; };
layout(set = 0, binding = 1, std430) writeonly buffer RowPtr { uint row_ptr[]; };

layout(push_constant) uniform Push {
    uint blocks;
    uint words;
    uint head_entries;  // room for a head's entries
} p;

shared uint counts[kLanes];

uint count_of(uint head, uint row) {
    uint count = 0;
    for (uint w = 0; w < p.words; ++w) count += bitCount(choice[(head * p.blocks + row) * p.words + w]);
    return count;
}

void main() {
    const uint head = gl_WorkGroupID.x;
    const uint lane = gl_LocalInvocationID.x;
    const uint rows = (p.blocks + kLanes - 1) / kLanes;
    const uint begin = min(lane * rows, p.blocks);
    const uint end = min(begin + rows, p.blocks);
    uint own = 0;
    if (kComplete == 0) {
        for (uint row = begin; row < end; ++row) own += count_of(head, row);
    }
    counts[lane] = own;
    barrier();
    uint at = head * p.head_entries;
    const uint out_base = head * (p.blocks + 1);
    if (kComplete != 0) {
        at += begin * p.blocks;
        for (uint row = begin; row < end; ++row, at += p.blocks) {
            row_ptr[2 * (out_base + row)] = at;
            row_ptr[2 * (out_base + row) + 1] = at + count_of(head, row);
        }
        if (lane == 0) row_ptr[2 * (out_base + p.blocks)] = head * p.head_entries + p.blocks * p.blocks;
        return;
    }
    for (uint i = 0; i < lane; ++i) at += counts[i];
    for (uint row = begin; row < end; ++row) {
        row_ptr[out_base + row] = at;
        at += count_of(head, row);
    }
    if (lane == kLanes - 1) row_ptr[out_base + p.blocks] = at;
}
