// One step of attention's second product for kernels whose invocations keep outputs to themselves.
#ifndef QUANTSPARSE_ADD_VALUES_GLSL
#define QUANTSPARSE_ADD_VALUES_GLSL

/// The outputs so far of a query, rescaled by `factor`, and `weight` times the values of four more keys.
vec4 add_values(vec4 sum, float factor, vec4 weight, vec4 v0, vec4 v1, vec4 v2, vec4 v3) {
    return sum * factor + weight.x * v0 + weight.y * v1 + weight.z * v2 + weight.w * v3;
}

#endif
