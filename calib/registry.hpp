// The networks the calibrator can run, by the kinds of their descriptions. Tests add theirs.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "calib/transformer.hpp"

namespace quantsparse::calib {

struct TransformerKind {
    std::string kind;
    /// `component` must outlive the transformer.
    std::unique_ptr<Transformer> (*make)(const format::Component& component) = nullptr;
};

struct TextKind {
    std::string kind;
    /// The states [valid tokens, width] of one tokenised prompt; one layer's weights in memory at a
    /// time. `after_layer` may throw to stop.
    at::Tensor (*encode)(const format::Component& encoder, const std::vector<int>& ids,
                         const std::function<void()>& after_layer) = nullptr;
};

/// Throw Error(unsupported) for a network that the calibrator can't run.
std::unique_ptr<Transformer> make_transformer(const format::Component& component);
at::Tensor encode_text(const format::Component& encoder, const std::vector<int>& ids,
                       const std::function<void()>& after_layer = {});

void add_transformer_kind(TransformerKind kind);

}  // namespace quantsparse::calib
