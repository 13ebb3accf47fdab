// Where heads of type 1 hold their tokens: place by place, (p, f) at p F + f, while all else goes frame by frame. With
// `apart` frame 0 comes first as it is, then the other frames place by place.
#ifndef QUANTSPARSE_TOKEN_ORDER_GLSL
#define QUANTSPARSE_TOKEN_ORDER_GLSL

uint position_by_place(uint token, uint frames, uint places, bool apart) {
    const uint first = apart ? places : 0;
    if (token < first) return token;
    return first + token % places * (apart ? frames - 1 : frames) + (token - first) / places;
}

#endif
