// The attention of attention_tiled.comp on matrix units (VK_KHR_cooperative_matrix): q, k and v in halves
// (pack_halves.comp), both products summed in fp32, the softmax in fp32. Outputs, masks, lists and the
// correction are as described there; there is no position bias.
//
// A work-group owns kQueries queries of one head and walks over tiles of kTileKeys keys that all its
// subgroups share. A subgroup owns kRows queries, so their softmax needs no other subgroup:
//   1. scores: q stays in registers, k comes from shared memory; the scores go to the subgroup's own rows
//      in shared memory, since how a matrix lies in registers is the driver's secret
//   2. softmax: kSubgroup / kRows neighbouring lanes share a row. Exponents are taken against a maximum
//      that moves only when a score passes it by more than kSlack, so the sums are seldom rescaled
//   3. values: the probabilities, as halves in the place of the scores, times v
// The next tile's k and v are fetched into registers while this one's products run.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_vote : require
#extension GL_KHR_shader_subgroup_shuffle : require
#extension GL_EXT_shader_explicit_arithmetic_types : require
#extension GL_EXT_control_flow_attributes : require
#include "constants.glsl"

#define HALVES
#include "attention.glsl"

layout(constant_id = 14) const uint kM = 16;         // rows of one matrix product: 8 or 16
layout(constant_id = 15) const uint kSubgroup = 32;  // lanes of a subgroup

#include "unroll.glsl"
const uint kN = 16;
const uint kK = 16;
const uint kRowTiles = ROW_TILES;                    // matrices of queries a subgroup owns
const uint kTileKeys = COLUMN_TILES * kN;
const uint kDim = DIM_TILES * kN;                    // the module's, for heads of 64 and of 128
const uint kRows = kRowTiles * kM;
const uint kSubgroups = kLanes / kSubgroup;
const uint kUnits = kDim / 8;                        // words of eight halves in a row of q, k or v
const uint kTileStride = kUnits + 1;                 // 16 bytes more: neighbouring rows begin in other banks
const uint kScoreStride = kTileKeys / 4 + 1;         // of scores, and of what else goes through shared memory
const uint kParts = kSubgroup / kRows;               // lanes that share a row
const uint kPart = kTileKeys / 4 / kParts;           // fours of keys a lane has
const uint kFetches = (kTileKeys * kUnits + kLanes - 1) / kLanes;

const float kSlack = 8.0;                            // in powers of two: probabilities stay below 256
const float kLog2E = 1.4426950408889634;

#define SUMS coopmat<float, gl_ScopeSubgroup, kM, kN, gl_MatrixUseAccumulator>

shared uvec4 k_tile[kTileKeys * kTileStride];
shared uvec4 v_tile[kTileKeys * kTileStride];
shared uvec4 score_tile[kSubgroups * kRows * kScoreStride];

#ifdef SPARSE
uint list_entry;
/// First key of a tile of this query block's list; `partial`: pairs are tested.
uint first_key(uint tile, out bool partial) {
    const uint per_block = kBlock / kTileKeys;
    const uint entry = columns[list_entry + tile / per_block];
    partial = (entry & kPartial) != 0;
    return block_of(entry) * kBlock + tile % per_block * kTileKeys;
}
#else
uint first_key(uint tile, out bool partial) {
    partial = false;
    return tile * kTileKeys;
}
#endif

/// 16 columns of the outputs of kM queries from `position` on, which are in the subgroup's rows.
void write_outputs(uint own, uint position, uint last_row, uint head, uint column0) {
    for (uint i = gl_SubgroupInvocationID; i < kM * kN; i += kSubgroup) {
        const uint at = position + i / kN;
        if (at > last_row) continue;
        const uint token = token_of(at, p.first_head + head);
        const uint column = i % kN;
        out_values[out_row(token, at, head) + column0 + column] =
            uintBitsToFloat(score_tile[own + i / kN * kScoreStride + column / 4][column % 4]);
    }
}

void main() {
    const uint lane = gl_LocalInvocationID.x;
    const uint head = gl_WorkGroupID.y;
    const uint query0 = gl_WorkGroupID.x * kQueries;
    const uint last_row = p.query_base + p.queries - 1;
    const uint row0 = p.query_base + query0;
    const uint q_head = head * p.q_stride;
    const uint kv_head = head * p.kv_stride;

    const uint own = gl_SubgroupID * kRows * kScoreStride;  // the subgroup's rows in score_tile
    const uint own_row = gl_SubgroupID * kRows;             // and its queries in the work-group
    const uint row = gl_SubgroupInvocationID / kParts;      // the lane's row of them
    const uint part = gl_SubgroupInvocationID % kParts;
    const uint query = min(row0 + own_row + row, last_row);

    // q into registers, 64 columns at a time: more has no room in the subgroup's rows.
    coopmat<float16_t, gl_ScopeSubgroup, kM, kK, gl_MatrixUseA> q[ROW_TILES * DIM_TILES];
#define LOAD_Q(r) coopMatLoad(q[r * DIM_TILES + S], score_tile, own + r * kM * kScoreStride + S % 4 * (kK / 8), \
                              kScoreStride, gl_CooperativeMatrixLayoutRowMajor);
#define LOAD_Q_STEP(s) { const uint S = 4 * BATCH + s; FOR_ROWS(LOAD_Q) }
#define LOAD_Q_BATCH(batch) { \
        const uint BATCH = batch; \
        subgroupBarrier(); \
        for (uint i = gl_SubgroupInvocationID; i < kRows * 8; i += kSubgroup) { \
            const uint from = (q_head + min(row0 + own_row + i / 8, last_row)) * kUnits + 8 * BATCH + i % 8; \
            score_tile[own + i / 8 * kScoreStride + i % 8] = q_values[from]; \
        } \
        subgroupBarrier(); \
        LOAD_Q_STEP(0) LOAD_Q_STEP(1) LOAD_Q_STEP(2) LOAD_Q_STEP(3) }
    LOAD_Q_BATCH(0)
#if DIM_TILES == 8
    LOAD_Q_BATCH(1)
#endif

    SUMS sum[ROW_TILES * DIM_TILES];
#define ZERO_ROW(r) sum[r * DIM_TILES + C] = SUMS(0.0);
#define ZERO(c) { const uint C = c; FOR_ROWS(ZERO_ROW) }
    FOR_DIM(ZERO)
    float top = kMasked;       // what the lane's row's exponents are taken against
    float denominator = 0.0;   // of the lane's own keys

#ifdef SPARSE
    const uint list = (p.first_head + head) * p.list_stride + row0 / kBlock;
    list_entry = row_ptr[list];
    const uint tiles = (row_ptr[list + 1] - list_entry) * (kBlock / kTileKeys);
#else
    const uint tiles = (p.keys + kTileKeys - 1) / kTileKeys;
#endif
    const float scale = p.scale * kLog2E;

    bool partial = false, next_partial = false;
    uint first = 0;
    uint next = tiles > 0 ? first_key(0, next_partial) : 0;
    uvec4 k_next[kFetches], v_next[kFetches];
#define FETCH                                                                                             \
    [[unroll]] for (uint i = 0; i < kFetches; ++i) {                                                      \
        const uint unit = min(i * kLanes + lane, kTileKeys * kUnits - 1);                                 \
        const uint from = (kv_head + min(next + unit / kUnits, p.keys - 1)) * kUnits + unit % kUnits;     \
        k_next[i] = k_values[from];                                                                       \
        v_next[i] = v_values[from];                                                                       \
    }
    FETCH

    for (uint tile = 0; tile < tiles; ++tile) {
        barrier();
        [[unroll]] for (uint i = 0; i < kFetches; ++i) {
            const uint unit = i * kLanes + lane;
            if (unit < kTileKeys * kUnits) {
                k_tile[unit / kUnits * kTileStride + unit % kUnits] = k_next[i];
                v_tile[unit / kUnits * kTileStride + unit % kUnits] = v_next[i];
            }
        }
        barrier();
        first = next;
        partial = next_partial;
        if (tile + 1 < tiles) {
            next = first_key(tile + 1, next_partial);
            FETCH
        }

        {
            SUMS scores[ROW_TILES * COLUMN_TILES];
#define ZERO_SCORE(r) scores[r * COLUMN_TILES + C] = SUMS(0.0);
#define ZERO_SCORES(c) { const uint C = c; FOR_ROWS(ZERO_SCORE) }
            FOR_COLUMNS(ZERO_SCORES)
#define SCORE(r) scores[r * COLUMN_TILES + C] = coopMatMulAdd(q[r * DIM_TILES + S], k, scores[r * COLUMN_TILES + C]);
#define SCORE_COLUMN(c) { \
                const uint C = c; \
                coopmat<float16_t, gl_ScopeSubgroup, kK, kN, gl_MatrixUseB> k; \
                coopMatLoad(k, k_tile, C * kN * kTileStride + S * (kK / 8), kTileStride, \
                            gl_CooperativeMatrixLayoutColumnMajor); \
                FOR_ROWS(SCORE) }
#define SCORE_STEP(s) { const uint S = s; FOR_COLUMNS(SCORE_COLUMN) }
            FOR_DIM(SCORE_STEP)
#define STORE_SCORE(r) coopMatStore(scores[r * COLUMN_TILES + C], score_tile, \
                                    own + r * kM * kScoreStride + C * (kN / 4), kScoreStride, \
                                    gl_CooperativeMatrixLayoutRowMajor);
#define STORE_SCORES(c) { const uint C = c; FOR_ROWS(STORE_SCORE) }
            FOR_COLUMNS(STORE_SCORES)
        }
        subgroupBarrier();

        vec4 s[kPart];
        float largest = kMasked;
        uvec4 sees = uvec4(0);
#ifdef SPARSE
        if (partial) sees = load_sight(query);
#endif
        [[unroll]] for (uint i = 0; i < kPart; ++i) {
            const uint four = part * kPart + i;
            s[i] = masked_scores(scale * uintBitsToFloat(score_tile[own + row * kScoreStride + four]),
                                 first + 4 * four, partial, sees);
            largest = max(largest, max(max(s[i].x, s[i].y), max(s[i].z, s[i].w)));
        }
        [[unroll]] for (uint reach = 1; reach < kParts; reach *= 2) {
            largest = max(largest, subgroupShuffleXor(largest, reach));
        }
        subgroupBarrier();  // every score is read before the first is overwritten
        const bool moves = largest > top + kSlack;
        float rescale = 1.0;
        if (moves) {
            rescale = exp2(top - largest);
            top = largest;
        }
        const bool any_moves = subgroupAny(moves);
        vec4 total = vec4(0.0);
        [[unroll]] for (uint i = 0; i < kPart; i += 2) {
            // A row that has seen nothing yet keeps a maximum that is masked itself.
            const vec4 e0 = mix(exp2(s[i] - top), vec4(0.0), lessThanEqual(s[i], vec4(0.5 * kMasked)));
            const vec4 e1 = mix(exp2(s[i + 1] - top), vec4(0.0), lessThanEqual(s[i + 1], vec4(0.5 * kMasked)));
            total += e0 + e1;
            score_tile[own + row * kScoreStride + (part * kPart + i) / 2] =
                uvec4(packHalf2x16(e0.xy), packHalf2x16(e0.zw), packHalf2x16(e1.xy), packHalf2x16(e1.zw));
        }
        denominator = denominator * rescale + total.x + total.y + total.z + total.w;
        if (any_moves) {
            // Behind the probabilities: each row's factor, once for every column of a matrix.
            for (uint c = part; c < kN / 4; c += kParts) {
                score_tile[own + row * kScoreStride + kTileKeys / 8 + c] = uvec4(floatBitsToUint(rescale));
            }
            subgroupBarrier();
#define SCALE(c) sum[R * DIM_TILES + c] = sum[R * DIM_TILES + c] * factor;
#define SCALE_ROW(r) { \
            const uint R = r; \
            SUMS factor; \
            coopMatLoad(factor, score_tile, own + R * kM * kScoreStride + kTileKeys / 8, kScoreStride, \
                        gl_CooperativeMatrixLayoutRowMajor); \
            FOR_DIM(SCALE) }
            FOR_ROWS(SCALE_ROW)
        }
        subgroupBarrier();

#define LOAD_P(r) coopMatLoad(e[r], score_tile, own + r * kM * kScoreStride + J * (kK / 8), kScoreStride, \
                              gl_CooperativeMatrixLayoutRowMajor);
#define VALUE(r) sum[r * DIM_TILES + C] = coopMatMulAdd(e[r], v, sum[r * DIM_TILES + C]);
#define VALUE_COLUMN(c) { \
            const uint C = c; \
            coopmat<float16_t, gl_ScopeSubgroup, kK, kN, gl_MatrixUseB> v; \
            coopMatLoad(v, v_tile, J * kK * kTileStride + C * (kN / 8), kTileStride, \
                        gl_CooperativeMatrixLayoutRowMajor); \
            FOR_ROWS(VALUE) }
#define VALUE_KEYS(j) { \
            const uint J = j; \
            coopmat<float16_t, gl_ScopeSubgroup, kM, kK, gl_MatrixUseA> e[ROW_TILES]; \
            FOR_ROWS(LOAD_P) \
            FOR_DIM(VALUE_COLUMN) }
        FOR_COLUMNS(VALUE_KEYS)
    }

    [[unroll]] for (uint reach = 1; reach < kParts; reach *= 2) {
        denominator += subgroupShuffleXor(denominator, reach);
    }
    // Zero for a query whose list is empty.
    const float normalise = denominator > 0.0 ? 1.0 / denominator : 0.0;
    subgroupBarrier();
    for (uint c = part; c < kN / 4; c += kParts) {
        score_tile[own + row * kScoreStride + kTileKeys / 8 + c] = uvec4(floatBitsToUint(normalise));
    }
    subgroupBarrier();
#define FINISH(c) { \
        const SUMS y = sum[R * DIM_TILES + c] * factor; \
        subgroupBarrier(); \
        coopMatStore(y, score_tile, own, kScoreStride, gl_CooperativeMatrixLayoutRowMajor); \
        subgroupBarrier(); \
        write_outputs(own, row0 + own_row + R * kM, last_row, head, c * kN); }
#define FINISH_ROW(r) { \
        const uint R = r; \
        SUMS factor; \
        coopMatLoad(factor, score_tile, own + R * kM * kScoreStride + kTileKeys / 8, kScoreStride, \
                    gl_CooperativeMatrixLayoutRowMajor); \
        FOR_DIM(FINISH) }
    FOR_ROWS(FINISH_ROW)
#ifdef SPARSE
    if (kResidual == kNoResidual) return;
    // What other lanes of the work-group have written is changed below.
    memoryBarrierBuffer();
    barrier();
    const vec4 weight = residual_weight(p.first_head + head);
    for (uint n = lane; n < kQueries * kDim4; n += kLanes) {
        const uint t = n / kDim4;
        const uint d4 = n % kDim4;
        if (query0 + t >= p.queries) continue;
        const uint token = token_of(row0 + t, p.first_head + head);
        const uint out_base = out_row(token, row0 + t, head);
        const vec4 y = residual_at(token - p.query_base, token, p.first_head + head, d4, weight);
        for (uint c = 0; c < 4; ++c) {
            if (4 * d4 + c < p.head_dim) out_values[out_base + 4 * d4 + c] += y[c];
        }
    }
#endif
}
