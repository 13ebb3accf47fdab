// Constants and push constants of split_heads.comp, which describes them, and of split_heads_private.comp.
#ifndef QUANTSPARSE_SPLIT_HEADS_GLSL
#define QUANTSPARSE_SPLIT_HEADS_GLSL

layout(constant_id = 1) const uint kNorm = 0;
layout(constant_id = 2) const uint kRope = 0;
layout(constant_id = 3) const uint kFrames = 0;
layout(constant_id = 4) const uint kFrame0Apart = 0;
layout(constant_id = 5) const uint kOnlyTemporal = 0;  // the others are there already
layout(constant_id = 6) const uint kPositions = 0;     // instead of types

layout(push_constant) uniform Push {
    uint heads;         // heads written by this dispatch
    uint first_head;    // of the input; becomes head 0 of `out`
    uint columns;       // of an input row: all heads
    uint head_dim;
    uint padded_dim;
    uint in_stride;
    uint token_stride;  // tokens of a head in `out`
    uint token_base;    // token of work-group 0, in the grid and in `out`
    uint grid_rows;
    uint grid_columns;
    uint pairs_time;    // pairs turned by the frame index; the next pairs_row by the row, the rest by
    uint pairs_row;     // the column
    float eps;
    uint places;        // tokens of a frame
    uint text;          // tokens in front of the grid
    uint rows;          // bound; split_heads_private.comp
} p;

#endif
