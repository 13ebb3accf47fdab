// Where heads of type 1 hold the tokens of the grid: place by place, (p, f) at p F + f, while all else goes frame by
// frame. With `apart` frame 0 comes first as it is, then the other frames place by place. Text in front of the grid and
// behind it stays where it is.
#ifndef QUANTSPARSE_TOKEN_ORDER_GLSL
#define QUANTSPARSE_TOKEN_ORDER_GLSL

/// (n / d, n % d) for n <= 2^21, which split_heads checks. Integer division is some 20 instructions on GPUs, and a division
/// for each lane on CPU drivers. The quotient in floats, 3 units in the last place away at most, is off by one at most.
uvec2 divided(uint n, uint d) {
    const uint quotient = uint(float(n) * (1.0 / float(d)));
    const int rest = int(n - quotient * d);
    if (rest < 0) return uvec2(quotient - 1, rest + int(d));
    if (rest >= int(d)) return uvec2(quotient + 1, rest - int(d));
    return uvec2(quotient, rest);
}

/// `text`: tokens in front of the grid.
uint position_by_place(uint token, uint text, uint frames, uint places, bool apart) {
    const uint in_grid = token - text;  // wraps in front of it
    if (in_grid >= frames * places) return token;
    const uvec2 place = divided(in_grid, places);  // its frame, and where it lies in there
    if (apart) return place.x == 0 ? token : text + places + place.y * (frames - 1) + place.x - 1;
    return text + place.y * frames + place.x;
}

#endif
