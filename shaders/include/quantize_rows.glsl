// Constants and push constants of quantize_rows.comp, which describes them, and of quantize_rows_private.comp.
#ifndef QUANTSPARSE_QUANTIZE_ROWS_GLSL
#define QUANTSPARSE_QUANTIZE_ROWS_GLSL

layout(constant_id = 1) const uint kHasMultiplier = 0;
layout(constant_id = 2) const uint kClip = 0;

layout(push_constant) uniform Push {
    uint m;
    uint k;
    uint in_stride;
    uint k_words;   // padded K / 4
    float qmax;
} p;

#endif
