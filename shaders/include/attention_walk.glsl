// Which tiles of keys attention_tiled.comp walks over, in one pass or two, and what it makes of their scores:
//
//   dense    all tiles
//   SPARSE   those of the blocks that the query block's list names; the correction is added at the end
//   BOTH     under the mask and over all keys at once: first the mask's blocks, whose result is written, then, with
//            the same running sums, those that they lack. Rows of the list alternate: of each query block the mask's
//            blocks, then all others; a partial block is in both, and there stands for the pairs that the mask leaves
//            out
#ifndef QUANTSPARSE_ATTENTION_WALK_GLSL
#define QUANTSPARSE_ATTENTION_WALK_GLSL

#ifdef SPARSE
const uint kTilesPerBlock = kBlock / kTile;
uint first_entry;  // of the pass

/// How many tiles a pass has.
uint begin_list(uint list) {
    first_entry = row_ptr[list];
    return (row_ptr[list + 1] - first_entry) * kTilesPerBlock;
}
/// The list of a work-group. Teams whose queries are past the end go along with its first, which is not.
uint list_of(uint head) {
    return (p.first_head + head) * p.list_stride + (p.query_base + gl_WorkGroupID.x * kTeams * kQueries) / kBlock;
}
/// The first key of a tile, or whether nobody looks at it; `partial`: pairs are tested.
bool find_tile(uint tile, out uint first, out bool partial) {
    const uint entry = columns[first_entry + tile / kTilesPerBlock];
    partial = (entry & kPartial) != 0;
    first = block_of(entry) * kBlock + tile % kTilesPerBlock * kTile;
    bool visited = first < p.keys;  // not in the tail of the last block
    if (kTilesPerBlock > 1 && visited) {
        const uvec2 range = keys_of(entry, 1);
        visited = first + kTile > range.x && first < range.y;
    }
    return visited;
}
#else
bool find_tile(uint tile, out uint first, out bool partial) {
    first = tile * kTile;
    partial = false;
    return true;
}
#endif

#ifdef BOTH
#define FOR_EACH_PASS [[dont_unroll]] for (uint pass = 0; pass < 2; ++pass)
uint begin_pass(uint head, uint pass) { return begin_list(2 * list_of(head) + pass); }
void end_pass() { barrier(); }  // the next one writes what this one has read

/// Keeps the scores of keys key0 .. key0 + 3: the second pass has the pairs of partial blocks that the first one
/// leaves out. Stored on both sides: RADV's estimates of the latency rise by 5 to 10 % with one store behind them.
void keep_scores(uint row, uint lane, vec4 s, uint key0, bool partial, uvec4 range, uint pass) {
    if (partial && pass != 0) {
        const uvec4 key = key0 + uvec4(0, 1, 2, 3);
        scores[row][lane] = mix(vec4(kMasked), mix(s, vec4(kMasked), sees(key, range)), lessThan(key, uvec4(p.keys)));
    } else {
        scores[row][lane] = masked_scores(s, key0, partial, range);
    }
}
/// Where the result of a pass lies, from where the one over all keys does.
uint base_of_pass(uint pass) { return pass == 0 ? p.masked_base : 0; }
#else
#define FOR_EACH_PASS const uint pass = 0;
#ifdef SPARSE
uint begin_pass(uint head, uint pass) { return begin_list(list_of(head)); }
#else
uint begin_pass(uint head, uint pass) { return (p.keys + kTile - 1) / kTile; }
#endif
void end_pass() {}
void keep_scores(uint row, uint lane, vec4 s, uint key0, bool partial, uvec4 range, uint pass) {
    scores[row][lane] = masked_scores(s, key0, partial, range);
}
uint base_of_pass(uint pass) { return 0; }
#endif

#if defined(SPARSE) && !defined(BOTH)
/// In a loop of its own over what this invocation has just written: unrolled into the one that writes, the correction's
/// code is there kQueries * kVectors times, and llvmpipe compiled it for 16 s.
void add_correction(uint lane, uint head, uint query0) {
    if (kResidual == kNoResidual) return;
    const vec4 weight = residual_weight(p.first_head + head);
    for (uint n = lane; n < kQueries * kVectors * kLanes; n += kLanes) {
        const uint t = n / (kVectors * kLanes);
        const uint d4 = n % (kVectors * kLanes);
        if (query0 + t >= p.queries || d4 >= kDim4) continue;
        const uint row = p.query_base + query0 + t;
        const uint token = token_of(row, p.first_head + head);
        const uint out_base = out_row(token, row, head);
        const vec4 y = residual_at(token - p.query_base, token, p.first_head + head, d4, weight);
        for (uint c = 0; c < 4; ++c) {
            if (4 * d4 + c < p.head_dim) out_values[out_base + 4 * d4 + c] += y[c];
        }
    }
}
#else
void add_correction(uint lane, uint head, uint query0) {}
#endif

#endif
