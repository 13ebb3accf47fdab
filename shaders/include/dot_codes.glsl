// Sums of products of four signed 8-bit codes a word. Tiers (TIER_DOT or not) give identical sums: the portable one
// multiplies in fp32, exact while no partial sum passes 2^24, 1,040 products of 127 by 127.
#ifndef QUANTSPARSE_DOT_CODES_GLSL
#define QUANTSPARSE_DOT_CODES_GLSL

#ifdef TIER_DOT
// OpSDot on packed 4x8-bit operands: DotProductKHR (6019), DotProductInput4x8BitPackedKHR (6018).
spirv_instruction(extensions = ["SPV_KHR_integer_dot_product"], capabilities = [6019, 6018], id = 4450)
int dot_packed_signed(uint a, uint b, spirv_literal int packed_format);
#define OPERAND uint
#define ACCUMULATOR int
#define ACCUMULATOR4 ivec4
OPERAND operand(uint packed_bytes) { return packed_bytes; }
ACCUMULATOR accumulate(OPERAND a, OPERAND b, ACCUMULATOR sum) {
    return sum + dot_packed_signed(a, b, 0);
}
#else
#define OPERAND vec4
#define ACCUMULATOR float
#define ACCUMULATOR4 vec4
OPERAND operand(uint packed_bytes) {
    const ivec4 shifted = ivec4(packed_bytes << 24, packed_bytes << 16, packed_bytes << 8, packed_bytes);
    return vec4(shifted >> 24);
}
ACCUMULATOR accumulate(OPERAND a, OPERAND b, ACCUMULATOR sum) {
    // Four fused or separate operations give the same: every partial sum is an exact integer.
    return sum + (a.x * b.x + a.y * b.y + a.z * b.z + a.w * b.w);
}
#endif

#endif
