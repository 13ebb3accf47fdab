// Signed codes of eight bits, symmetric around zero.
#ifndef QUANTSPARSE_CODES_GLSL
#define QUANTSPARSE_CODES_GLSL

/// Bits that order by magnitude, and a NaN above all.
uint magnitude(float x) { return floatBitsToUint(x) & 0x7FFFFFFFu; }
uint largest_magnitude(vec4 x) {
    return max(max(magnitude(x.x), magnitude(x.y)), max(magnitude(x.z), magnitude(x.w)));
}

const uint kInfinite = 0x7F800000u;

/// The scale for values up to a magnitude: zero where they are (or as good as) zero, not finite where they are not.
float code_scale(uint largest) {
    const float value = uintBitsToFloat(largest);
    if (largest >= kInfinite) return value;
    return value > 1e-30 ? value / 127.0 : 0.0;
}

/// Four codes in a word; zeros where no finite scale says what they are worth.
uint coded(vec4 x, vec4 scale) {
    uint word = 0;
    for (uint i = 0; i < 4; ++i) {
        if (magnitude(scale[i]) >= kInfinite || scale[i] == 0.0) continue;
        const int code = int(clamp(roundEven(x[i] / scale[i]), -127.0, 127.0));
        word |= (uint(code) & 0xFFu) << (8 * i);
    }
    return word;
}

#endif
