// Chosen key blocks as bits: of each query block of a head a row of `words` words, block j in bit j % 32 of word j / 32.
#ifndef QUANTSPARSE_BLOCK_CHOICE_GLSL
#define QUANTSPARSE_BLOCK_CHOICE_GLSL

/// Of the 32 blocks from `first` on those that exist.
uint existing(uint first, uint blocks) {
    return first + 32 <= blocks ? 0xFFFFFFFFu : (1u << (blocks - first)) - 1u;
}

#endif
