#include "calib/registry.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "calib/umt5_encoder.hpp"
#include "calib/wan_dit.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::calib {
namespace {

std::vector<TransformerKind>& transformer_kinds() {
    static std::vector<TransformerKind> kinds = {
        {"wan-dit", make_wan_dit},
    };
    return kinds;
}

const std::vector<TextKind> kTextKinds = {
    {"umt5", encode_umt5},
};

template <typename Kind>
const Kind& find(const std::vector<Kind>& kinds, const format::Network& network) {
    const auto found = std::find_if(kinds.begin(), kinds.end(),
                                    [&](const Kind& known) { return known.kind == network.kind; });
    if (found == kinds.end()) {
        throw Error(ErrorCode::unsupported,
                    fmt::format("networks of the kind '{}' can't be calibrated", network.kind));
    }
    return *found;
}

}  // namespace

std::unique_ptr<Transformer> make_transformer(const format::Component& component) {
    return find(transformer_kinds(), component.network).make(component);
}

at::Tensor encode_text(const format::Component& encoder, const std::vector<int>& ids,
                       const std::function<void()>& after_layer) {
    return find(kTextKinds, encoder.network).encode(encoder, ids, after_layer);
}

void add_transformer_kind(TransformerKind kind) {
    transformer_kinds().push_back(std::move(kind));
}

}  // namespace quantsparse::calib
