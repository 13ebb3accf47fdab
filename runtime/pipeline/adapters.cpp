#include "pipeline/adapters.hpp"

#include <fmt/format.h>
#include <set>

#include "format/adapter_merge.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::pipeline {
namespace {

bool applies(AdapterTarget target, format::ExpertPlace expert) {
    switch (target) {
        case AdapterTarget::high:
            return expert.index == 0;
        case AdapterTarget::low:
            return expert.index + 1 == expert.count;
        default:
            return true;
    }
}

void check_target(const Adapter& adapter, int experts) {
    if (adapter.target != AdapterTarget::both && experts == 1) {
        throw Error(
            ErrorCode::invalid_argument,
            fmt::format("'{}' is to change the transformer for {} noise, but this model has "
                        "one transformer: name none",
                        adapter.file.string(),
                        adapter.target == AdapterTarget::high ? "high" : "low"),
            "adapters");
    }
}

}  // namespace

std::shared_ptr<const format::ModelBundle> adapted_model(
    const format::ModelBundle& bundle, const Recipe& recipe, const std::vector<Adapter>& adapters,
    const std::function<void(const std::string&)>& warn) {
    if (adapters.empty()) return {std::shared_ptr<void>(), &bundle};
    const int count = static_cast<int>(recipe.experts.size());
    std::vector<std::shared_ptr<const format::AdapterFile>> files;
    for (const Adapter& adapter : adapters) {
        check_target(adapter, count);
        files.push_back(std::make_shared<format::AdapterFile>(adapter.file));
    }
    std::set<std::string> said;  // both experts have the same to say
    const auto warn_once = [&](const std::string& line) {
        if (warn && said.insert(line).second) warn(line);
    };
    auto adapted = std::make_shared<format::ModelBundle>(bundle);
    for (int e = 0; e < count; ++e) {
        const format::ExpertPlace place{e, count};
        std::vector<format::AppliedAdapter> own;
        for (std::size_t i = 0; i < adapters.size(); ++i) {
            if (applies(adapters[i].target, place)) {
                own.push_back({files[i], adapters[i].strength});
            }
        }
        format::Component& expert =
            adapted->components.at(recipe.experts[static_cast<std::size_t>(e)].role);
        expert = format::apply_adapters(expert, own, place, warn_once);
    }
    return adapted;
}

}  // namespace quantsparse::pipeline
