// Work-group reductions through shared memory, in an order that does not depend on the device's
// subgroup size, so that every device gives the same bits.
#ifndef QUANTSPARSE_REDUCE_GLSL
#define QUANTSPARSE_REDUCE_GLSL

const uint kMaxReduceLanes = 256;
shared float reduce_lanes[kMaxReduceLanes];

/// Sum of `value` over the work-group; every invocation must call it.
float workgroup_sum(float value) {
    const uint lane = gl_LocalInvocationID.x;
    barrier();
    reduce_lanes[lane] = value;
    barrier();
    for (uint stride = gl_WorkGroupSize.x / 2; stride > 0; stride /= 2) {
        if (lane < stride) reduce_lanes[lane] += reduce_lanes[lane + stride];
        barrier();
    }
    return reduce_lanes[0];
}

/// Maximum of `value` over the work-group; every invocation must call it.
float workgroup_max(float value) {
    const uint lane = gl_LocalInvocationID.x;
    barrier();
    reduce_lanes[lane] = value;
    barrier();
    for (uint stride = gl_WorkGroupSize.x / 2; stride > 0; stride /= 2) {
        if (lane < stride) reduce_lanes[lane] = max(reduce_lanes[lane], reduce_lanes[lane + stride]);
        barrier();
    }
    return reduce_lanes[0];
}

#endif
