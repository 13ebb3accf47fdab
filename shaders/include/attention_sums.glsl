// Variant SUMS of attention's kernels: the logarithm of each query's softmax denominator, by which attention over more
// keys can be joined to it.
//
//   sums  fp32 [heads, q_stride], in the heads' own order of tokens
#ifndef QUANTSPARSE_ATTENTION_SUMS_GLSL
#define QUANTSPARSE_ATTENTION_SUMS_GLSL

#ifdef SUMS
layout(set = 0, binding = 14, std430) writeonly buffer Sums { float sums[]; };

void keep_sum(uint head, uint row, float maximum, float denominator) {
    sums[(p.first_head + head) * p.q_stride + row] = denominator > 0.0 ? maximum + log(denominator) : kMasked;
}
#endif

#endif
