#include "program/rates.hpp"

#include <algorithm>

namespace quantsparse::program {
namespace {

/// What earlier measurements count beside a new one.
constexpr double kMemory = 0.5;

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

void Rates::learn(std::span<const Part> parts, double seconds_taken) {
    double expected = 0;
    for (const Part& part : parts) expected += seconds(part.kind, part.work);
    const double factor = seconds_taken / std::max(expected, 1e-9);
    std::vector<Measured> news;
    for (const Part& part : parts) {
        news.push_back({part.work, factor * seconds(part.kind, part.work)});
    }
    for (std::size_t i = 0; i < parts.size(); ++i) {
        Measured& m = measured_[parts[i].kind];
        m.work = kMemory * m.work + news[i].work;
        m.seconds = kMemory * m.seconds + news[i].seconds;
    }
}

}  // namespace quantsparse::program
