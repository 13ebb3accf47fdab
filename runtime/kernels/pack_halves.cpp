#include "kernels/pack_halves.hpp"

#include <algorithm>
#include <shaders/pack_halves.hpp>

namespace quantsparse::kernels {

Tensor pack_halves(Program& program, const std::string& name, const HeadMatrix& m) {
    constexpr std::uint32_t kLanes = 256, kEach = 4;
    const Tensor halves =
        program.add(name, m.head_bytes() / 2 * static_cast<std::uint64_t>(m.heads));
    const std::uint64_t fours = m.head_bytes() / 16;
    const int chunk = std::min(heads_per_dispatch(program, m.head_bytes(), m.heads),
                               static_cast<int>(std::max<std::uint64_t>(
                                   1, std::uint64_t{65535} * kLanes * kEach / fours)));
    const std::uint32_t lanes = std::min(kLanes, program.limits().max_invocations);
    for (int head = 0; head < m.heads; head += chunk) {
        const std::uint64_t count = static_cast<std::uint64_t>(std::min(chunk, m.heads - head));
        const std::uint64_t from = m.head_bytes() * static_cast<std::uint64_t>(head);
        program.dispatch(name, shaders::ShaderId::pack_halves, {lanes},
                         {program::read(m.tensor, from, m.head_bytes() * count),
                          program::write(halves, from / 2, m.head_bytes() / 2 * count)},
                         shaders::pack_halves::Push{
                             .fours = static_cast<std::uint32_t>(fours * count), .each = kEach},
                         {ceil_div(fours * count, std::uint64_t{lanes} * kEach), 1, 1},
                         4.0 * static_cast<double>(fours * count));
    }
    return halves;
}

}  // namespace quantsparse::kernels
