// Values of ggml's blocks (gguf facts 48 to 50). Each product and each sum is rounded once, in the
// order of the facts; the file is compiled without contraction to fused operations, so the values
// are ggml's to the bit. Loops run over the values that share a scale, which compilers vectorise.
#include "format/ggml_blocks.hpp"

#include <array>
#include <cstdint>

namespace quantsparse::format {
namespace {

using Byte = std::uint8_t;

constexpr std::array<std::int8_t, 16> kCodebook = {-127, -104, -83, -65, -49, -35, -22, -10,
                                                   1,    13,   25,  38,  53,  69,  89,  113};

float half_at(const Byte* position) {
    return float_from_half(static_cast<std::uint16_t>(position[0] | position[1] << 8));
}

/// Low halves of the bytes give the first `count` values, high halves those behind.
template <typename Value>
void widen_nibbles(const Byte* bytes, int count, float* out, Value value) {
    for (int i = 0; i < count; ++i) {
        out[i] = value(bytes[i] & 15);
    }
    for (int i = 0; i < count; ++i) {
        out[count + i] = value(bytes[i] >> 4);
    }
}

void q4_0(const Byte* block, float* out) {
    const float d = half_at(block);
    widen_nibbles(block + 2, 16, out, [d](int q) { return d * static_cast<float>(q - 8); });
}

void q4_1(const Byte* block, float* out) {
    const float d = half_at(block);
    const float m = half_at(block + 2);
    widen_nibbles(block + 4, 16, out, [=](int q) { return d * static_cast<float>(q) + m; });
}

void iq4_nl(const Byte* block, float* out) {
    const float d = half_at(block);
    widen_nibbles(block + 2, 16, out, [d](int q) {
        return d * static_cast<float>(kCodebook[static_cast<std::size_t>(q)]);
    });
}

/// Q5_0 and Q5_1: the fifth bits of all values in four bytes, then the low four bits.
template <typename Value>
void widen_five_bits(const Byte* high, const Byte* low, float* out, Value value) {
    std::array<Byte, 32> fifth{};
    for (std::size_t i = 0; i < 32; ++i) {
        fifth[i] = static_cast<Byte>((high[i / 8] >> (i % 8) & 1) << 4);
    }
    for (std::size_t i = 0; i < 16; ++i) {
        out[i] = value((low[i] & 15) | fifth[i]);
    }
    for (std::size_t i = 0; i < 16; ++i) {
        out[16 + i] = value(low[i] >> 4 | fifth[16 + i]);
    }
}

void q5_0(const Byte* block, float* out) {
    const float d = half_at(block);
    widen_five_bits(block + 2, block + 6, out,
                    [d](int q) { return d * static_cast<float>(q - 16); });
}

void q5_1(const Byte* block, float* out) {
    const float d = half_at(block);
    const float m = half_at(block + 2);
    widen_five_bits(block + 4, block + 8, out,
                    [=](int q) { return d * static_cast<float>(q) + m; });
}

void q8_0(const Byte* block, float* out) {
    const float d = half_at(block);
    for (int i = 0; i < 32; ++i) {
        out[i] = d * static_cast<float>(static_cast<std::int8_t>(block[2 + i]));
    }
}

/// Scale and minimum of the eight parts of Q4_K and Q5_K, 6 bits each in 12 bytes, times the
/// block's two factors.
struct PartScales {
    std::array<float, 8> scale;
    std::array<float, 8> minimum;
};

PartScales part_scales(const Byte* block) {
    const float d = half_at(block);
    const float dmin = half_at(block + 2);
    const Byte* s = block + 4;
    PartScales parts;
    for (std::size_t j = 0; j < 8; ++j) {
        const int scale = j < 4 ? s[j] & 63 : (s[j + 4] & 15) | s[j - 4] >> 6 << 4;
        const int minimum = j < 4 ? s[j + 4] & 63 : s[j + 4] >> 4 | s[j] >> 6 << 4;
        parts.scale[j] = d * static_cast<float>(scale);
        parts.minimum[j] = dmin * static_cast<float>(minimum);
    }
    return parts;
}

void q4_k(const Byte* block, float* out) {
    const PartScales parts = part_scales(block);
    const Byte* codes = block + 16;
    for (std::size_t j = 0; j < 8; j += 2, codes += 32, out += 64) {
        const float low = parts.scale[j], low_minimum = parts.minimum[j];
        const float high = parts.scale[j + 1], high_minimum = parts.minimum[j + 1];
        for (int i = 0; i < 32; ++i) {
            out[i] = low * static_cast<float>(codes[i] & 15) - low_minimum;
        }
        for (int i = 0; i < 32; ++i) {
            out[32 + i] = high * static_cast<float>(codes[i] >> 4) - high_minimum;
        }
    }
}

void q5_k(const Byte* block, float* out) {
    const PartScales parts = part_scales(block);
    const Byte* fifth = block + 16;
    const Byte* codes = block + 48;
    for (std::size_t j = 0; j < 8; j += 2, codes += 32, out += 64) {
        const float low = parts.scale[j], low_minimum = parts.minimum[j];
        const float high = parts.scale[j + 1], high_minimum = parts.minimum[j + 1];
        for (int i = 0; i < 32; ++i) {
            const int q = (codes[i] & 15) | (fifth[i] >> j & 1) << 4;
            out[i] = low * static_cast<float>(q) - low_minimum;
        }
        for (int i = 0; i < 32; ++i) {
            const int q = codes[i] >> 4 | (fifth[i] >> (j + 1) & 1) << 4;
            out[32 + i] = high * static_cast<float>(q) - high_minimum;
        }
    }
}

void q6_k(const Byte* block, float* out) {
    const float d = half_at(block + 208);
    for (int half = 0; half < 2; ++half) {
        const Byte* low = block + 64 * half;
        const Byte* high = block + 128 + 32 * half;
        const Byte* scales = block + 192 + 8 * half;
        for (int part = 0; part < 4; ++part, out += 32) {  // of 32 values, 16 to a scale
            const Byte* nibbles = low + 32 * (part % 2);
            const int nibble_shift = 4 * (part / 2);
            for (int i = 0; i < 32; i += 16) {
                const float scale =
                    d * static_cast<float>(static_cast<std::int8_t>(scales[2 * part + i / 16]));
                for (int k = i; k < i + 16; ++k) {
                    const int q = (nibbles[k] >> nibble_shift & 15) | (high[k] >> 2 * part & 3)
                                                                          << 4;
                    out[k] = scale * static_cast<float>(q - 32);
                }
            }
        }
    }
}

void q3_k(const Byte* block, float* out) {
    const Byte* high = block;
    const Byte* s = block + 96;
    const float d = half_at(block + 108);
    for (int j = 0; j < 16; ++j, out += 16) {  // 16 values to a scale
        const int low_bits = j < 8 ? s[j] & 15 : s[j - 8] >> 4;
        const int bits = low_bits | (s[8 + j % 4] >> 2 * (j / 4) & 3) << 4;
        const float scale = d * static_cast<float>(bits - 32);
        const int part = j / 2;
        const Byte* pairs = block + 32 + 32 * (part / 4) + 16 * (j % 2);
        const Byte* third = high + 16 * (j % 2);
        for (int i = 0; i < 16; ++i) {
            const int q = (pairs[i] >> 2 * (part % 4) & 3) | (third[i] >> part & 1) << 2;
            out[i] = scale * static_cast<float>(q - 4);
        }
    }
}

void q2_k(const Byte* block, float* out) {
    const float d = half_at(block + 80);
    const float dmin = half_at(block + 82);
    for (int j = 0; j < 16; ++j, out += 16) {  // 16 values to a scale
        const float scale = d * static_cast<float>(block[j] & 15);
        const float minimum = dmin * static_cast<float>(block[j] >> 4);
        const int part = j / 2;
        const Byte* pairs = block + 16 + 32 * (part / 4) + 16 * (j % 2);
        for (int i = 0; i < 16; ++i) {
            out[i] = scale * static_cast<float>(pairs[i] >> 2 * (part % 4) & 3) - minimum;
        }
    }
}

void iq4_xs(const Byte* block, float* out) {
    const float d = half_at(block);
    const int high = block[2] | block[3] << 8;
    const Byte* low = block + 4;
    const Byte* codes = block + 8;
    for (int j = 0; j < 8; ++j, codes += 16, out += 32) {
        const int bits = (low[j / 2] >> 4 * (j % 2) & 15) | (high >> 2 * j & 3) << 4;
        const float scale = d * static_cast<float>(bits - 32);
        widen_nibbles(codes, 16, out, [scale](int q) {
            return scale * static_cast<float>(kCodebook[static_cast<std::size_t>(q)]);
        });
    }
}

using Widen = void (*)(const Byte* block, float* out);

Widen widen_of(DType dtype) {
    switch (dtype) {
        case DType::q4_0:
            return q4_0;
        case DType::q4_1:
            return q4_1;
        case DType::q5_0:
            return q5_0;
        case DType::q5_1:
            return q5_1;
        case DType::q8_0:
            return q8_0;
        case DType::q2_k:
            return q2_k;
        case DType::q3_k:
            return q3_k;
        case DType::q4_k:
            return q4_k;
        case DType::q5_k:
            return q5_k;
        case DType::q6_k:
            return q6_k;
        case DType::iq4_nl:
            return iq4_nl;
        case DType::iq4_xs:
            return iq4_xs;
        default:
            return nullptr;
    }
}

}  // namespace

bool is_block_type(DType dtype) {
    return block_of(dtype).values > 1;
}

void widen_blocks(DType dtype, std::span<const std::byte> bytes, std::span<float> out) {
    const ElementBlock size = block_of(dtype);
    const Widen widen = widen_of(dtype);
    const auto* block = reinterpret_cast<const Byte*>(bytes.data());
    const auto blocks = out.size() / static_cast<std::size_t>(size.values);
    for (std::size_t i = 0; i < blocks; ++i) {
        widen(block + i * static_cast<std::size_t>(size.bytes),
              out.data() + i * static_cast<std::size_t>(size.values));
    }
}

}  // namespace quantsparse::format
