// The products of gemm_quantized.comp and gemm_float.comp on matrix units (VK_KHR_cooperative_matrix):
// the same operands, epilogues and push constants, and for integers the same sums to the bit.
//
//   WEIGHT_BITS 4, 6, 8   signed bytes times codes, sums in int32
//   WEIGHT_HALF           fp32 rows rounded to halves times halves, sums in fp32
//
// A work-group owns kTileRows x kTileColumns outputs, shared out over kSubgroupRows x kSubgroupColumns
// subgroups with kRowTiles x kColumnTiles matrices of accumulators each. Per turn of the loop TURN_BYTES of
// every row and column go to shared memory, where codes are already bytes; the next turn's operands are
// fetched into registers while this one's products run. Shared rows are 16 bytes longer than their
// contents, so that matrix loads of neighbouring rows begin in different banks.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_EXT_shader_explicit_arithmetic_types : require
#extension GL_EXT_control_flow_attributes : require
#include "constants.glsl"

layout(constant_id = 2) const uint kWriteAccumulators = 0;
layout(constant_id = 9) const uint kLanes = 256;       // the work-group's width again: sizes arrays
layout(constant_id = 10) const uint kM = 16;           // shape of one matrix product
layout(constant_id = 11) const uint kN = 16;
layout(constant_id = 12) const uint kK = 32;
layout(constant_id = 13) const uint kSubgroup = 32;    // lanes of a subgroup
layout(constant_id = 14) const uint kSubgroupColumns = 4;
#include "unroll.glsl"
const uint kRowTiles = ROW_TILES;  // the module's: 4 x 4, or 2 x 2 for few outputs
const uint kColumnTiles = COLUMN_TILES;

const uint kSubgroupRows = kLanes / kSubgroup / kSubgroupColumns;
const uint kTileRows = kSubgroupRows * kRowTiles * kM;
const uint kTileColumns = kSubgroupColumns * kColumnTiles * kN;

#ifdef WEIGHT_HALF
#define ELEMENT float16_t
#define SUM float
#define WORDS uvec2                    // 4 halves
#define OUT_VALUE vec4
layout(set = 0, binding = 0, std430) readonly buffer A { vec4 a_values[]; };
layout(set = 0, binding = 1, std430) readonly buffer B { uvec2 b_values[]; };
const uint kDepth = TURN_BYTES / 2;    // of the inner dimension, a turn
const uint kPerWord = 4;               // elements in WORDS
#else
#define ELEMENT int8_t
#define SUM int
#define WORDS uvec4                    // 16 codes
#define OUT_VALUE ivec4
layout(set = 0, binding = 0, std430) readonly buffer Activations { uvec4 activations[]; };
layout(set = 0, binding = 1, std430) readonly buffer Weights { uvec4 weights[]; };
const uint kDepth = TURN_BYTES;
const uint kPerWord = 16;
#endif
layout(set = 0, binding = 2, std430) writeonly buffer Out { vec4 out_values[]; };
layout(set = 0, binding = 3, std430) readonly buffer Bias { vec4 bias_values[]; };
layout(set = 0, binding = 4, std430) readonly buffer Factor { vec4 factor_values[]; };
layout(set = 0, binding = 5, std430) readonly buffer Residual { vec4 residual_values[]; };
layout(set = 0, binding = 6, std430) readonly buffer Gate { vec4 gate_values[]; };
#ifndef WEIGHT_HALF
layout(set = 0, binding = 7, std430) readonly buffer RowScale { float row_scales[]; };
layout(set = 0, binding = 8, std430) readonly buffer RowSum { int row_sums[]; };
layout(set = 0, binding = 9, std430) readonly buffer ColumnScale { vec4 column_scales[]; };
#endif

#ifdef WEIGHT_HALF
#include "gemm_float_push.glsl"
#else
#include "gemm_quantized_push.glsl"
#endif

#include "epilogue.glsl"

// ---- the shared tiles ------------------------------------------------------------------------
const uint kRowWords = kDepth / kPerWord;         // WORDS of a row of A
const uint kPad = 16 / (kPerWord == 4 ? 8 : 16);  // 16 bytes in WORDS
const uint kAStride = kRowWords + kPad;
#ifdef WEIGHT_HALF                                // B by rows: [kDepth][kTileColumns]
const uint kBStride = kTileColumns / kPerWord + kPad;
const uint kBRows = kDepth;
#else                                             // B by columns: [kTileColumns][kDepth]
const uint kBStride = kDepth / 8 + 2;
const uint kBRows = kTileColumns;
#endif
shared WORDS a_tile[kTileRows * kAStride];
shared uvec2 b_tile[kBRows * kBStride];
shared OUT_VALUE sums[kLanes / kSubgroup * kM * kN / 4];

// ---- fetching --------------------------------------------------------------------------------
const uint kAUnits = kTileRows * kRowWords;       // of WORDS
const uint kAEach = (kAUnits + kLanes - 1) / kLanes;
#ifdef WEIGHT_HALF
const uint kBUnits = kDepth * kTileColumns / 4;   // of 4 halves
#else
const uint kBUnits = kDepth / 8 * kTileColumns / 4;  // of 8 codes of 4 columns
#endif
const uint kBEach = (kBUnits + kLanes - 1) / kLanes;

#ifdef WEIGHT_HALF
#define A_UNIT vec4
#define B_UNIT uvec2
#else
#define A_UNIT uvec4
#if WEIGHT_BITS == 4
#define B_UNIT uvec4
#else
struct Codes { uvec4 first, second; };            // 6 bits: the planes; 8 bits: codes 0-3, 4-7
#define B_UNIT Codes
#endif
#endif

A_UNIT fetch_a(uint i, uint row0, uint begin) {
    const uint row = min(row0 + i / kRowWords, p.m - 1);
    const uint k = begin / kPerWord + i % kRowWords;
    // Beyond K the rows are zero, so whatever the weights hold there adds nothing.
#ifdef WEIGHT_HALF
    return k < (p.k + 3) / 4 ? a_values[row * p.a_stride4 + k] : vec4(0.0);
#else
    return k < p.k8 / 2 ? activations[row * p.x_stride4 + k] : uvec4(0);
#endif
}

void store_a(uint i, A_UNIT unit) {
#ifdef WEIGHT_HALF
    const vec4 finite = clamp(unit, vec4(-65504.0), vec4(65504.0));
    const uvec2 words = uvec2(packHalf2x16(finite.xy), packHalf2x16(finite.zw));
#else
    const uvec4 words = unit;
#endif
    a_tile[i / kRowWords * kAStride + i % kRowWords] = words;
}

B_UNIT fetch_b(uint i, uint column0, uint begin) {
#ifdef WEIGHT_HALF
    const uint n4 = min(column0 + i % (kTileColumns / 4), p.n4 - 1);
    const uint k = min(begin + i / (kTileColumns / 4), p.k - 1);
    return b_values[k * p.b_stride4 + n4];
#else
    // Neighbouring lanes take neighbouring codes of one column: their stores then meet no bank twice.
    const uint n4 = min(column0 + i / (kDepth / 8), p.n4 - 1);
    const uint k8 = min(begin / 8 + i % (kDepth / 8), p.k8 - 1);
#if WEIGHT_BITS == 8
    return Codes(weights[2 * k8 * p.n_stride4 + n4], weights[(2 * k8 + 1) * p.n_stride4 + n4]);
#elif WEIGHT_BITS == 6
    return Codes(weights[k8 * p.n_stride4 + n4],
                 weights[p.high_plane4 + (k8 / 2) * p.n_stride4 + n4] >> (4 * (k8 & 1)));
#else
    return weights[k8 * p.n_stride4 + n4];
#endif
#endif
}

void store_b(uint i, B_UNIT unit) {
#ifdef WEIGHT_HALF
    b_tile[i / (kTileColumns / 4) * kBStride + i % (kTileColumns / 4)] = unit;
#else
#if WEIGHT_BITS == 8
    const uvec4 low = unit.first, high = unit.second;
#elif WEIGHT_BITS == 6
    const uvec4 low = (unit.first & 0x0F0F0F0Fu) | ((unit.second & 0x03030303u) << 4);
    const uvec4 high = ((unit.first >> 4) & 0x0F0F0F0Fu) | (((unit.second >> 2) & 0x03030303u) << 4);
#else
    const uvec4 low = unit & 0x0F0F0F0Fu;
    const uvec4 high = (unit >> 4) & 0x0F0F0F0Fu;
#endif
    const uint column = 4 * (i / (kDepth / 8));
    const uint k8 = i % (kDepth / 8);
    [[unroll]] for (uint c = 0; c < 4; ++c) {
        b_tile[(column + c) * kBStride + k8] = uvec2(low[c], high[c]);
    }
#endif
}

/// The epilogue of one matrix of sums, which is in shared memory.
void write_tile(uint own, uint row0, uint column0, uint row_tile, uint column_tile) {
    for (uint i = gl_SubgroupInvocationID; i < kM * kN / 4; i += kSubgroup) {
        const uint row = row0 + row_tile * kM + i / (kN / 4);
        const uint n4 = column0 + column_tile * (kN / 4) + i % (kN / 4);
        if (row >= p.m || n4 >= p.n4) continue;
        OUT_VALUE accumulator = sums[own + i];
#ifdef WEIGHT_HALF
        out_values[row * p.out_stride4 + p.column4 + n4] = epilogue(accumulator, row, p.column4 + n4);
#else
#if WEIGHT_BITS != 8
        accumulator -= (1 << (WEIGHT_BITS - 1)) * row_sums[row];
#endif
        if (kWriteAccumulators != 0) {
            out_values[row * p.out_stride4 + n4] = intBitsToFloat(accumulator);
        } else {
            const vec4 y = vec4(accumulator) * (row_scales[row] * column_scales[n4]);
            out_values[row * p.out_stride4 + n4] = epilogue(y, row, n4);
        }
#endif
    }
}

void main() {
    const uint lane = gl_LocalInvocationID.x;
    const uint subgroup_row = gl_SubgroupID / kSubgroupColumns;
    const uint subgroup_column = gl_SubgroupID % kSubgroupColumns;
    const uint row0 = gl_WorkGroupID.y * kTileRows;
    const uint column0 = gl_WorkGroupID.x * (kTileColumns / 4);  // in fours

    coopmat<SUM, gl_ScopeSubgroup, kM, kN, gl_MatrixUseAccumulator> sum[kRowTiles * kColumnTiles];
#define ZERO_COLUMN(c) sum[R * COLUMN_TILES + c] = coopmat<SUM, gl_ScopeSubgroup, kM, kN, gl_MatrixUseAccumulator>(SUM(0));
#define ZERO_ROW(r) { const uint R = r; FOR_COLUMNS(ZERO_COLUMN) }
    FOR_ROWS(ZERO_ROW)

    A_UNIT a_next[kAEach];
    B_UNIT b_next[kBEach];
#define FETCH(begin) \
    [[unroll]] for (uint i = 0; i < kAEach; ++i) a_next[i] = fetch_a(min(i * kLanes + lane, kAUnits - 1), row0, begin); \
    [[unroll]] for (uint i = 0; i < kBEach; ++i) b_next[i] = fetch_b(min(i * kLanes + lane, kBUnits - 1), column0, begin);
#define STORE \
    [[unroll]] for (uint i = 0; i < kAEach; ++i) if (i * kLanes + lane < kAUnits) store_a(i * kLanes + lane, a_next[i]); \
    [[unroll]] for (uint i = 0; i < kBEach; ++i) if (i * kLanes + lane < kBUnits) store_b(i * kLanes + lane, b_next[i]);

#ifdef WEIGHT_HALF
    const uint turns = (p.k + kDepth - 1) / kDepth;
#else
    const uint turns = (8 * p.k8 + kDepth - 1) / kDepth;
#endif
    FETCH(0)
    for (uint turn = 0; turn < turns; ++turn) {
        barrier();
        STORE
        barrier();
        if (turn + 1 < turns) {
            FETCH((turn + 1) * kDepth)
        }
        [[unroll]] for (uint k = 0; k < kDepth / kK; ++k) {
            coopmat<ELEMENT, gl_ScopeSubgroup, kM, kK, gl_MatrixUseA> a[kRowTiles];
#define LOAD_A(r) coopMatLoad(a[r], a_tile, (subgroup_row * kRowTiles + r) * kM * kAStride + k * kK / kPerWord, kAStride, \
                              gl_CooperativeMatrixLayoutRowMajor);
            FOR_ROWS(LOAD_A)
#ifdef WEIGHT_HALF
#define LOAD_B coopMatLoad(b, b_tile, k * kK * kBStride + column / kPerWord, kBStride, gl_CooperativeMatrixLayoutRowMajor);
#else
#define LOAD_B coopMatLoad(b, b_tile, column * kBStride + k * kK / 8, kBStride, gl_CooperativeMatrixLayoutColumnMajor);
#endif
#define MULTIPLY(r) sum[r * COLUMN_TILES + C] = coopMatMulAdd(a[r], b, sum[r * COLUMN_TILES + C]);
#define COLUMN(c) { \
                const uint C = c; \
                const uint column = (subgroup_column * kColumnTiles + C) * kN; \
                coopmat<ELEMENT, gl_ScopeSubgroup, kK, kN, gl_MatrixUseB> b; \
                LOAD_B \
                FOR_ROWS(MULTIPLY) }
            FOR_COLUMNS(COLUMN)
        }
    }

    // How a matrix lies in its subgroup's registers is the driver's secret: through shared memory each
    // lane gets rows and columns it knows.
    const uint own = gl_SubgroupID * (kM * kN / 4);
#define FINISH_COLUMN(c) \
    subgroupBarrier(); \
    coopMatStore(sum[R * COLUMN_TILES + c], sums, own, kN / 4, gl_CooperativeMatrixLayoutRowMajor); \
    subgroupBarrier(); \
    write_tile(own, row0, column0, subgroup_row * kRowTiles + R, subgroup_column * kColumnTiles + c);
#define FINISH_ROW(r) { const uint R = r; FOR_COLUMNS(FINISH_COLUMN) }
    FOR_ROWS(FINISH_ROW)
}
