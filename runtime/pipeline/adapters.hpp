// What adapters make of a model. The calibrator links it, too: nothing of Vulkan.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "format/model_bundle.hpp"
#include "pipeline/recipes.hpp"
#include "quantsparse/adapter.hpp"

namespace quantsparse::pipeline {

/// The model with the adapters in its transformers; `bundle` itself where there are none, and then
/// it must outlive the result. Files are opened anew each time. `warn` gets lines about what is
/// left out. Throws as format::apply_adapters() does, and Error(invalid_argument) for a target that
/// the model doesn't have.
std::shared_ptr<const format::ModelBundle> adapted_model(
    const format::ModelBundle& bundle, const Recipe& recipe, const std::vector<Adapter>& adapters,
    const std::function<void(const std::string&)>& warn = {});

}  // namespace quantsparse::pipeline
