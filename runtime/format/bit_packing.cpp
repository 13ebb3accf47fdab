#include "format/bit_packing.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>

#include "quantsparse/error.hpp"

namespace quantsparse::format {
namespace {

std::size_t word_rows(int k, int codes_per_word) {
    return static_cast<std::size_t>(packed_k(k) / codes_per_word);
}

void check_sizes(int rows, int k, std::size_t codes) {
    if (rows < 1 || k < 1 ||
        codes != static_cast<std::size_t>(rows) * static_cast<std::size_t>(k)) {
        throw Error(ErrorCode::invalid_argument,
                    fmt::format("{} codes can't be a matrix of {} x {}", codes, rows, k));
    }
}

void check_bits(int bits) {
    if (bits != 3 && bits != 4 && bits != 6 && bits != 8) {
        throw Error(ErrorCode::invalid_argument,
                    fmt::format("{} bits are not supported; use 3, 4, 6 or 8", bits));
    }
}

/// Codes of `bits` bits that lie one beside the other in the bytes of a word: code k of a word is
/// in byte k % 4, above those of k - 4, k - 8 and so on.
struct Plane {
    int bits;
    std::size_t first = 0;  ///< word
    int low = 0;            ///< the lowest bit of a code that it holds

    int codes_per_word() const { return 32 / bits; }
    int shift(int k) const { return 8 * (k & 3) + bits * (k % codes_per_word() / 4); }
    std::uint32_t mask() const { return (1U << bits) - 1; }
    std::size_t word(std::size_t k, std::size_t column, std::size_t columns) const {
        return first + k / static_cast<std::size_t>(codes_per_word()) * columns + column;
    }
};

/// The planes of codes of `bits` bits, low bits first.
std::vector<Plane> planes_of(int n, int k, int bits) {
    const auto columns = static_cast<std::size_t>(packed_n(n));
    switch (bits) {
        case 3:
            return {{2}, {1, word_rows(k, 16) * columns, 2}};
        case 6:
            return {{4}, {2, word_rows(k, 8) * columns, 4}};
        default:
            return {{bits}};
    }
}

/// NaN or infinity where the row holds either. Magnitudes order as their bits do, NaN above all;
/// compilers vectorise the maximum of integers.
float largest_magnitude(std::span<const float> row) {
    std::int32_t largest = 0;
    for (const float value : row) {
        largest = std::max(largest, std::bit_cast<std::int32_t>(value) & 0x7FFFFFFF);
    }
    return std::bit_cast<float>(largest);
}

/// Of values below 2^22: where 1.5 * 2^23 is added, the last bit stands for 1.
float round_half_to_even(float value) {
    constexpr float kShift = 12582912.0f;
    return (value + kShift) - kShift;
}

QuantizedWeight quantize(std::span<const float> values, int rows, int k, int bits, int lowest,
                         std::span<const float> gamma) {
    check_bits(bits);
    check_sizes(rows, k, values.size());
    if (!gamma.empty() && gamma.size() != static_cast<std::size_t>(rows)) {
        throw Error(ErrorCode::invalid_argument,
                    fmt::format("{} clipping factors for {} rows", gamma.size(), rows));
    }
    const int qmax = (1 << (bits - 1)) - 1;
    QuantizedWeight result;
    result.codes.resize(values.size());
    result.scale.resize(static_cast<std::size_t>(rows));
    for (std::size_t row = 0; row < result.scale.size(); ++row) {
        const auto line =
            values.subspan(row * static_cast<std::size_t>(k), static_cast<std::size_t>(k));
        const float absmax = largest_magnitude(line);
        if (!std::isfinite(absmax)) {
            throw Error(ErrorCode::non_finite,
                        fmt::format("row {} of a matrix to quantise holds NaN or infinity", row));
        }
        const float factor = gamma.empty() ? 1.0f : gamma[row];
        float scale = factor * absmax / static_cast<float>(qmax);
        if (scale < 1e-30f) {  // an all-zero row; also keeps value / scale finite
            scale = 1.0f;
        }
        result.scale[row] = scale;
        std::int8_t* codes = result.codes.data() + row * static_cast<std::size_t>(k);
        for (std::size_t i = 0; i < line.size(); ++i) {
            const float code =
                std::clamp(line[i] / scale, static_cast<float>(lowest), static_cast<float>(qmax));
            codes[i] = static_cast<std::int8_t>(static_cast<int>(round_half_to_even(code)));
        }
    }
    return result;
}

}  // namespace

std::size_t packed_word_count(int n, int k, int bits) {
    check_bits(bits);
    return word_rows(k, 32) * static_cast<std::size_t>(bits) *
           static_cast<std::size_t>(packed_n(n));
}

std::vector<std::uint32_t> pack_weight_codes(std::span<const std::int8_t> codes, int n, int k,
                                             int bits) {
    check_bits(bits);
    check_sizes(n, k, codes.size());
    const int half = 1 << (bits - 1);
    const int zero = bits == 8 ? 0 : half;  // 8 bits are stored signed
    const auto columns = static_cast<std::size_t>(packed_n(n));
    const auto planes = planes_of(n, k, bits);
    std::vector<std::uint32_t> words(packed_word_count(n, k, bits), 0);
    for (int row = 0; row < packed_n(n); ++row) {
        const auto column = static_cast<std::size_t>(row);
        for (int i = 0; i < packed_k(k); ++i) {
            const bool inside = row < n && i < k;
            const auto index = static_cast<std::size_t>(i);
            const int code = inside ? codes[column * static_cast<std::size_t>(k) + index] : 0;
            if (code < -half || code >= half) {
                throw Error(ErrorCode::invalid_argument,
                            fmt::format("code {} of row {} does not fit {} bits", code, row, bits));
            }
            const auto stored = static_cast<std::uint32_t>(code + zero);
            for (const Plane& plane : planes) {
                words[plane.word(index, column, columns)] |= (stored >> plane.low & plane.mask())
                                                             << plane.shift(i);
            }
        }
    }
    return words;
}

std::vector<std::int8_t> unpack_weight_codes(std::span<const std::uint32_t> words, int n, int k,
                                             int bits) {
    if (words.size() != packed_word_count(n, k, bits)) {
        throw Error(ErrorCode::invalid_argument,
                    fmt::format("{} words where {} x {} at {} bits needs {}", words.size(), n, k,
                                bits, packed_word_count(n, k, bits)));
    }
    const int zero = bits == 8 ? 0 : 1 << (bits - 1);
    const auto columns = static_cast<std::size_t>(packed_n(n));
    const auto planes = planes_of(n, k, bits);
    std::vector<std::int8_t> codes(static_cast<std::size_t>(n) * static_cast<std::size_t>(k));
    for (int row = 0; row < n; ++row) {
        const auto column = static_cast<std::size_t>(row);
        for (int i = 0; i < k; ++i) {
            const auto index = static_cast<std::size_t>(i);
            std::uint32_t stored = 0;
            for (const Plane& plane : planes) {
                stored |=
                    (words[plane.word(index, column, columns)] >> plane.shift(i) & plane.mask())
                    << plane.low;
            }
            codes[column * static_cast<std::size_t>(k) + index] =
                static_cast<std::int8_t>(static_cast<int>(stored) - zero);
        }
    }
    return codes;
}

std::vector<std::uint32_t> pack_activation_codes(std::span<const std::int8_t> codes, int m, int k) {
    check_sizes(m, k, codes.size());
    const std::size_t words_per_row = word_rows(k, 4);
    std::vector<std::uint32_t> words(static_cast<std::size_t>(m) * words_per_row, 0);
    for (std::size_t row = 0; row < static_cast<std::size_t>(m); ++row) {
        for (std::size_t i = 0; i < static_cast<std::size_t>(k); ++i) {
            const auto byte =
                static_cast<std::uint8_t>(codes[row * static_cast<std::size_t>(k) + i]);
            words[row * words_per_row + i / 4] |= static_cast<std::uint32_t>(byte) << (8 * (i & 3));
        }
    }
    return words;
}

std::vector<std::int8_t> unpack_activation_codes(std::span<const std::uint32_t> words, int m,
                                                 int k) {
    const std::size_t words_per_row = word_rows(k, 4);
    if (words.size() != static_cast<std::size_t>(m) * words_per_row) {
        throw Error(ErrorCode::invalid_argument,
                    fmt::format("{} words where {} activation rows of {} need {}", words.size(), m,
                                k, static_cast<std::size_t>(m) * words_per_row));
    }
    std::vector<std::int8_t> codes;
    codes.reserve(static_cast<std::size_t>(m) * static_cast<std::size_t>(k));
    for (std::size_t row = 0; row < static_cast<std::size_t>(m); ++row) {
        for (std::size_t i = 0; i < static_cast<std::size_t>(k); ++i) {
            codes.push_back(
                static_cast<std::int8_t>(words[row * words_per_row + i / 4] >> (8 * (i & 3))));
        }
    }
    return codes;
}

QuantizedWeight quantize_weight(std::span<const float> weight, int n, int k, int bits,
                                std::span<const float> gamma) {
    check_bits(bits);
    return quantize(weight, n, k, bits, -(1 << (bits - 1)), gamma);
}

QuantizedWeight quantize_rows(std::span<const float> rows, int m, int k, int bits) {
    check_bits(bits);
    return quantize(rows, m, k, bits, -((1 << (bits - 1)) - 1), {});
}

}  // namespace quantsparse::format
