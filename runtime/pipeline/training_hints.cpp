#include "pipeline/training_hints.hpp"

#include <fmt/format.h>
#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "format/adapter.hpp"
#include "format/text.hpp"
#include "quantsparse/names.hpp"

namespace quantsparse::pipeline {
namespace {

/// How many numbers a list in a file's header has, whatever stands between them.
int count_numbers(const std::string& text) {
    int count = 0;
    bool inside = false;
    for (const char c : text) {
        const bool part = (c >= '0' && c <= '9') || c == '.';
        count += part && !inside;
        inside = part;
    }
    return count;
}

bool differs(const std::string& text, double value) {
    const double trained = std::atof(text.c_str());
    return std::abs(trained - value) > 1e-6 * std::max(1.0, std::abs(trained));
}

}  // namespace

std::vector<std::string> training_hints(const GenerationParameters& p) {
    std::vector<std::string> lines;
    for (const Adapter& adapter : p.conditioning.adapters) {
        const format::AdapterFile file(adapter.file);
        std::string trained, running;
        bool other = false;
        const auto compare = [&](const char* name, const std::string& run, auto is_other) {
            const auto found = file.metadata().find(fmt::format("few_step.{}", name));
            if (found == file.metadata().end()) return;
            trained += fmt::format("{}{} {}", trained.empty() ? "" : ", ", name,
                                   format::printable(found->second));
            running += fmt::format("{}{}", running.empty() ? "" : ", ", run);
            other = other || is_other(found->second);
        };
        compare("sampler", fmt::format("sampler {}", word_of(*p.sampler)),
                [&](const std::string& text) { return text != word_of(*p.sampler); });
        compare("timesteps", fmt::format("{} steps", *p.steps),
                [&](const std::string& text) { return count_numbers(text) != *p.steps; });
        compare("flow_shift", fmt::format("flow_shift {:g}", p.flow_shift.value_or(1)),
                [&](const std::string& text) { return differs(text, p.flow_shift.value_or(1)); });
        compare("guidance_scale", fmt::format("guidance_scale {:g}", *p.guidance_scale),
                [&](const std::string& text) { return differs(text, *p.guidance_scale); });
        if (other) {
            lines.push_back(fmt::format("'{}' was trained for {}; this run has {}",
                                        adapter.file.string(), trained, running));
        }
    }
    return lines;
}

}  // namespace quantsparse::pipeline
