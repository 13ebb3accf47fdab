// q, k and v, fp32 [heads, *_stride, padded_dim], as bindings 0 to 2 of set 0; HALVES: eight halves a word.
#ifndef QUANTSPARSE_ATTENTION_OPERANDS_GLSL
#define QUANTSPARSE_ATTENTION_OPERANDS_GLSL

#if defined(HALVES)
layout(set = 0, binding = 0, std430) readonly buffer Q { uvec4 q_values[]; };
layout(set = 0, binding = 1, std430) readonly buffer K { uvec4 k_values[]; };
layout(set = 0, binding = 2, std430) readonly buffer V { uvec4 v_values[]; };
#else
#include "loads.glsl"
LOADABLE(q, 0)
LOADABLE(k, 1)
LOADABLE(v, 2)
#endif

#endif
