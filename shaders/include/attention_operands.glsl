// q, k and v, fp32 [heads, *_stride, padded_dim], as bindings 0 to 2 of set 0; HALVES: eight halves a word.
#ifndef QUANTSPARSE_ATTENTION_OPERANDS_GLSL
#define QUANTSPARSE_ATTENTION_OPERANDS_GLSL

#if defined(HALVES)
layout(set = 0, binding = 0, std430) readonly buffer Q { uvec4 q_values[]; };
layout(set = 0, binding = 1, std430) readonly buffer K { uvec4 k_values[]; };
layout(set = 0, binding = 2, std430) readonly buffer V { uvec4 v_values[]; };
#elif defined(TEXELS)  // variants for drivers that read texel buffers faster: Quirks::texel_reads_are_faster
layout(set = 0, binding = 0) uniform usamplerBuffer q_texels;
layout(set = 0, binding = 1) uniform usamplerBuffer k_texels;
layout(set = 0, binding = 2) uniform usamplerBuffer v_texels;
vec4 load_q(uint i) { return uintBitsToFloat(texelFetch(q_texels, int(i))); }
vec4 load_k(uint i) { return uintBitsToFloat(texelFetch(k_texels, int(i))); }
vec4 load_v(uint i) { return uintBitsToFloat(texelFetch(v_texels, int(i))); }
#else
layout(set = 0, binding = 0, std430) readonly buffer Q { vec4 q_values[]; };
layout(set = 0, binding = 1, std430) readonly buffer K { vec4 k_values[]; };
layout(set = 0, binding = 2, std430) readonly buffer V { vec4 v_values[]; };
vec4 load_q(uint i) { return q_values[i]; }
vec4 load_k(uint i) { return k_values[i]; }
vec4 load_v(uint i) { return v_values[i]; }
#endif

#endif
