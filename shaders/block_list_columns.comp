// The entries of a list of blocks (kernels/attention.hpp), ascending in each row, from the chosen blocks. kComplete:
// behind them the row's other blocks.
//
//   choice   uint32 [heads, blocks, words]: block_choice.glsl
//   row_ptr  uint32: block_list_rows.comp
//   columns  uint32 [heads, head_entries]
//
// An invocation owns a word (x) of a head (y).
#version 460
#extension GL_GOOGLE_include_directive : require
#include "constants.glsl"
#include "block_choice.glsl"

layout(constant_id = 1) const uint kComplete = 0;

layout(set = 0, binding = 0, std430) readonly buffer Choice { uint choice[]; };
layout(set = 0, binding = 1, std430) readonly buffer RowPtr { uint row_ptr[]; };
layout(set = 0, binding = 2, std430) writeonly buffer Columns { uint columns[]; };

layout(push_constant) uniform Push {
    uint blocks;
    uint words;
    uint head_entries;
} p;

/// Writes the blocks whose bits are set, from entry `at` on.
void write_blocks(uint bits, uint first, uint at) {
    const uint end = (gl_WorkGroupID.y + 1) * p.head_entries;
    for (; bits != 0 && at < end; bits &= bits - 1, ++at) columns[at] = first + uint(findLSB(bits));
}

void main() {
    const uint item = gl_GlobalInvocationID.x;
    if (item >= p.blocks * p.words) return;
    const uint row = item / p.words;
    const uint word = item % p.words;
    const uint base = (gl_WorkGroupID.y * p.blocks + row) * p.words;
    uint before = 0;  // chosen blocks of the words before
    for (uint w = 0; w < word; ++w) before += bitCount(choice[base + w]);
    const uint bits = choice[base + word];
    const uint list = gl_WorkGroupID.y * (p.blocks + 1) + row;
    if (kComplete == 0) {
        write_blocks(bits, 32 * word, row_ptr[list] + before);
        return;
    }
    write_blocks(bits, 32 * word, row_ptr[2 * list] + before);
    write_blocks(~bits & existing(32 * word, p.blocks), 32 * word, row_ptr[2 * list + 1] + 32 * word - before);
}
