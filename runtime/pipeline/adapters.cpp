#include "pipeline/adapters.hpp"

#include <fmt/format.h>
#include <algorithm>
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

/// The transformers in the order of the steps; experts may share one.
std::vector<std::string> roles_of(const Recipe& recipe) {
    std::vector<std::string> roles;
    for (const Expert& expert : recipe.experts) {
        if (std::find(roles.begin(), roles.end(), expert.role) == roles.end()) {
            roles.push_back(expert.role);
        }
    }
    return roles;
}

void check_target(const Adapter& adapter, std::size_t transformers) {
    if (adapter.target != AdapterTarget::both && transformers == 1) {
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
    const std::vector<std::string> roles = roles_of(recipe);
    std::vector<std::shared_ptr<const format::AdapterFile>> files;
    for (const Adapter& adapter : adapters) {
        check_target(adapter, roles.size());
        files.push_back(std::make_shared<format::AdapterFile>(adapter.file));
    }
    std::set<std::string> said;  // both experts have the same to say
    const auto warn_once = [&](const std::string& line) {
        if (warn && said.insert(line).second) warn(line);
    };
    auto adapted = std::make_shared<format::ModelBundle>(bundle);
    const int count = static_cast<int>(roles.size());
    for (int e = 0; e < count; ++e) {
        const format::ExpertPlace place{e, count};
        std::vector<format::AppliedAdapter> own;
        for (std::size_t i = 0; i < adapters.size(); ++i) {
            if (applies(adapters[i].target, place)) {
                own.push_back({files[i], adapters[i].strength});
            }
        }
        format::Component& expert = adapted->components.at(roles[static_cast<std::size_t>(e)]);
        expert = format::apply_adapters(expert, own, place, warn_once);
    }
    return adapted;
}

}  // namespace quantsparse::pipeline
