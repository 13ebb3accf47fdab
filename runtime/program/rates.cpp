#include "program/rates.hpp"

#include <algorithm>
#include <limits>

namespace quantsparse::program {
namespace {

/// What earlier measurements count beside a new one.
constexpr double kMemory = 0.5;

/// How many times the work that has been measured a submission may have. On llvmpipe, 46 rows of
/// 8,960 were quantised at five times the rate of the 4,096 that came after.
constexpr double kGrowth = 16;

}  // namespace

std::uint32_t Rates::kind_of(const Operation& operation) {
    const auto [found, added] = kinds_.try_emplace({operation.name, operation.shader},
                                                   static_cast<std::uint32_t>(measured_.size()));
    if (added) measured_.emplace_back();
    return found->second;
}

double Rates::seconds(std::uint32_t kind, double work) const {
    const Measured& m = measured_[kind];
    return m.work > 0 ? work * m.seconds / m.work : work / unknown_;
}

double Rates::trusted_seconds(std::uint32_t kind) const {
    const Measured& m = measured_[kind];
    return m.work > 0 ? seconds(kind, kGrowth * m.longest)
                      : std::numeric_limits<double>::infinity();
}

void Rates::learn(std::span<const Part> parts, double seconds_taken) {
    double expected = 0;
    for (const Part& part : parts) expected += seconds(part.kind, part.work);
    const double factor = seconds_taken / std::max(expected, 1e-9);
    std::vector<double> news;
    for (const Part& part : parts) news.push_back(factor * seconds(part.kind, part.work));
    for (std::size_t i = 0; i < parts.size(); ++i) {
        Measured& m = measured_[parts[i].kind];
        m.work = kMemory * m.work + parts[i].work;
        m.seconds = kMemory * m.seconds + news[i];
        m.longest = std::max(m.longest, parts[i].work);
    }
}

}  // namespace quantsparse::program
