#include "format/convrot.hpp"

#include <bit>
#include <cmath>

namespace quantsparse::format {

bool is_convrot_group(int group, int k) {
    return group >= 4 && group <= 1024 && std::has_single_bit(static_cast<unsigned>(group)) &&
           std::countr_zero(static_cast<unsigned>(group)) % 2 == 0 && k % group == 0;
}

void apply_convrot(std::span<float> row, int group) {
    const auto size = static_cast<std::size_t>(group);
    const float norm = 1.0f / std::sqrt(static_cast<float>(group));
    for (float* x = row.data(); x < row.data() + row.size(); x += size) {
        // R is the Kronecker power of R4: one digit after the other.
        for (std::size_t stride = 1; stride < size; stride *= 4) {
            for (std::size_t i = 0; i < size; ++i) {
                if (i / stride % 4 != 0) {
                    continue;
                }
                float* v = x + i;
                const float a = v[0];
                const float b = v[stride];
                const float c = v[2 * stride];
                const float d = v[3 * stride];
                v[0] = a + b + c - d;
                v[stride] = a + b - c + d;
                v[2 * stride] = a - b + c + d;
                v[3 * stride] = b + c + d - a;
            }
        }
        for (std::size_t i = 0; i < size; ++i) {
            x[i] *= norm;
        }
    }
}

}  // namespace quantsparse::format
