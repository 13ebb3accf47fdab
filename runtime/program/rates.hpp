// How fast operations run on this device, learned from submissions as they run.
//
// Kernels differ a hundredfold in arithmetic a second, and so does one kernel between shapes:
// rates are kept by name. What has not been measured counts as slow, so that the first submission
// of a kind is short, and later ones grow step by step: a short one may run in caches, a long one
// touches memory for the first time.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "program/program.hpp"

namespace quantsparse::program {

class Rates {
  public:
    /// What a submission does of one kind of operation.
    struct Part {
        std::uint32_t kind;
        double work;
    };

    /// `unknown`: arithmetic a second to assume before anything was measured.
    explicit Rates(double unknown) : unknown_(unknown) {}

    /// Operations of one name and shader are of one kind.
    std::uint32_t kind_of(const Operation& operation);
    double seconds(std::uint32_t kind, double work) const;
    /// How long a submission of this kind may be expected to be: what has been measured says
    /// little about one that is many times as long.
    double trusted_seconds(std::uint32_t kind) const;
    /// A submission of these parts took so long. Kinds share it as they were expected to; recent
    /// and long submissions count most.
    void learn(std::span<const Part> parts, double seconds);

  private:
    struct Measured {
        double work = 0, seconds = 0;
        double longest = 0;  ///< work of one submission
    };
    double unknown_;
    std::map<std::pair<std::string, shaders::ShaderId>, std::uint32_t> kinds_;
    std::vector<Measured> measured_;
};

}  // namespace quantsparse::program
