// Constants and push constants of norm_rows.comp, which describes them, and of norm_rows_private.comp.
#ifndef QUANTSPARSE_NORM_ROWS_GLSL
#define QUANTSPARSE_NORM_ROWS_GLSL

layout(constant_id = 1) const uint kKind = 0;
layout(constant_id = 2) const uint kHasWeight = 0;
layout(constant_id = 3) const uint kHasBias = 0;
layout(constant_id = 4) const uint kModulate = 0;
layout(constant_id = 5) const uint kWatch = 0;

layout(push_constant) uniform Push {
    uint columns;
    uint stride;
    uint shift_offset;  // in floats, inside the modulation buffer
    uint scale_offset;
    float eps;
    uint site;
    uint rows;          // bound; norm_rows_private.comp
} p;

#endif
