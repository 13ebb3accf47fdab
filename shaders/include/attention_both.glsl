// Attention under a mask and over all keys in one pass (variant BOTH of the attention kernels): first the blocks that
// the mask lists, whose result is written, then with the same running sums what they lack.
//
// The rows of the list alternate: of each query block the mask's blocks, then all others; a partial block is in both,
// and there stands for the pairs that the mask leaves out.
#ifndef QUANTSPARSE_ATTENTION_BOTH_GLSL
#define QUANTSPARSE_ATTENTION_BOTH_GLSL

/// Scores of keys key0 .. key0 + 3 where the query does not see them; kMasked where it does.
vec4 unseen_scores(vec4 s, uint key0, uvec4 sees) {
    const uvec4 key = uvec4(key0, key0 + 1, key0 + 2, key0 + 3);
    const uvec4 inside = uvec4(lessThan(key - sees.x, uvec4(sees.y - sees.x)));
    const uvec4 outer = uvec4(lessThan(key, uvec4(sees.z))) | uvec4(greaterThanEqual(key, uvec4(sees.w)));
    s = mix(s, vec4(kMasked), notEqual(inside | outer, uvec4(0)));
    return mix(vec4(kMasked), s, lessThan(key, uvec4(p.keys)));
}

#endif
