// Which keys a query sees inside blocks of a list that are marked partial.
#ifndef QUANTSPARSE_SIGHT_GLSL
#define QUANTSPARSE_SIGHT_GLSL

/// Of four keys those in [range.x, range.y), below range.z and from range.w on.
bvec4 sees(uvec4 key, uvec4 range) {
    // In the first range if its distance from the begin, which wraps around below it, is short.
    const uvec4 inside = uvec4(lessThan(key - range.x, uvec4(range.y - range.x)));
    const uvec4 outer = uvec4(lessThan(key, uvec4(range.z))) | uvec4(greaterThanEqual(key, uvec4(range.w)));
    return notEqual(inside | outer, uvec4(0));
}

#endif
