// The feature map of sparse-linear attention (sla fact 90): softmax over a row's own columns, from what feature_rows.comp
// keeps of each row.
#ifndef QUANTSPARSE_FEATURE_MAP_GLSL
#define QUANTSPARSE_FEATURE_MAP_GLSL

/// Columns 4 d4 to 4 d4 + 3; zero from `head_dim` on.
vec4 feature(vec4 x, vec2 row, uint d4, uint head_dim) {
    const bvec4 exists = lessThan(4 * d4 + uvec4(0, 1, 2, 3), uvec4(head_dim));
    return mix(vec4(0.0), exp(x - row.x) * row.y, exists);
}

#endif
