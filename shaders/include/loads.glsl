// Inputs that variants TEXELS read through uniform texel buffers, on drivers where that is faster
// (Quirks::texel_reads_are_faster), and others as storage buffers.
//
//   LOADABLE(name, slot)        declares fp32 vec4 at binding `slot` and   vec4 load_name(uint i)
//   LOADABLE_HALVES(name, slot) halves, four of which are a vec4           vec4 load_name(uint i)
//   LOADABLE_WORDS(name, slot)  uint32, four of which are a uvec4          uvec4 load_name(uint i)
#ifndef QUANTSPARSE_LOADS_GLSL
#define QUANTSPARSE_LOADS_GLSL

vec4 unpack_halves(uvec2 words) { return vec4(unpackHalf2x16(words.x), unpackHalf2x16(words.y)); }

#ifdef TEXELS
#define TEXELS_AT(name, slot) layout(set = 0, binding = slot) uniform usamplerBuffer name##_texels;
#define LOADABLE_WORDS(name, slot) \
    TEXELS_AT(name, slot)          \
    uvec4 load_##name(uint i) { return texelFetch(name##_texels, int(i)); }
#define LOADABLE(name, slot)  \
    TEXELS_AT(name, slot)     \
    vec4 load_##name(uint i) { return uintBitsToFloat(texelFetch(name##_texels, int(i))); }
#define LOADABLE_HALVES(name, slot)                                 \
    TEXELS_AT(name, slot)                                           \
    vec4 load_##name(uint i) {                                      \
        const uvec4 two = texelFetch(name##_texels, int(i / 2));    \
        return unpack_halves((i & 1) == 0 ? two.xy : two.zw);       \
    }
#else
#define BUFFER_AT(type, name, slot) \
    layout(set = 0, binding = slot, std430) readonly buffer name##_buffer { type name##_values[]; };
#define LOADABLE_WORDS(name, slot) \
    BUFFER_AT(uvec4, name, slot)   \
    uvec4 load_##name(uint i) { return name##_values[i]; }
#define LOADABLE(name, slot)     \
    BUFFER_AT(vec4, name, slot)  \
    vec4 load_##name(uint i) { return name##_values[i]; }
#define LOADABLE_HALVES(name, slot) \
    BUFFER_AT(uvec2, name, slot)    \
    vec4 load_##name(uint i) { return unpack_halves(name##_values[i]); }
#endif

#endif
