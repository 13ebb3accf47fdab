#include "calib/registry.hpp"

#include "calib/umt5_encoder.hpp"
#include "calib/wan_dit.hpp"
#include "format/networks/registry.hpp"

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

}  // namespace

std::unique_ptr<Transformer> make_transformer(const format::Component& component) {
    return format::row_of(transformer_kinds(), component.network, "calibrated").make(component);
}

at::Tensor encode_text(const format::Component& encoder, const std::vector<int>& ids,
                       const std::function<void()>& after_layer) {
    return format::row_of(kTextKinds, encoder.network, "calibrated")
        .encode(encoder, ids, after_layer);
}

void add_transformer_kind(TransformerKind kind) {
    transformer_kinds().push_back(std::move(kind));
}

}  // namespace quantsparse::calib
