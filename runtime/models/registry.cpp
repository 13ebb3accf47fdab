#include "models/registry.hpp"

#include <fmt/format.h>
#include <algorithm>

#include "models/umt5_encoder.hpp"
#include "models/wan_dit.hpp"
#include "models/wan_step_changes.hpp"
#include "models/wan_vae.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::models {
namespace {

template <typename Model, typename Face, typename... Arguments>
std::unique_ptr<Face> make(Program& program, const format::Network& network,
                           Arguments... arguments) {
    return std::make_unique<Model>(program, network, arguments...);
}

std::vector<DenoisingKind>& denoising_kinds() {
    static std::vector<DenoisingKind> kinds = {
        {"wan-dit", make<WanDit, DenoisingNetwork, const DenoisingOptions&>, wan_step_changes},
    };
    return kinds;
}

const std::vector<TextEncoderKind> kTextEncoders = {
    {"umt5", make<Umt5Encoder, TextEncoder, int, int, bool>},
};

const std::vector<VideoVaeKind> kVideoVaes = {
    {"wan-vae", make<WanVae, VideoVae, VideoVae::Direction, int, int>},
};

template <typename Kind>
const Kind& find(const std::vector<Kind>& kinds, const format::Network& network) {
    const auto found = std::find_if(kinds.begin(), kinds.end(),
                                    [&](const Kind& known) { return known.kind == network.kind; });
    if (found == kinds.end()) {
        throw Error(ErrorCode::unsupported,
                    fmt::format("networks of the kind '{}' can't be run", network.kind));
    }
    return *found;
}

}  // namespace

const DenoisingKind& denoising_kind(const format::Network& network) {
    return find(denoising_kinds(), network);
}
const TextEncoderKind& text_encoder_kind(const format::Network& network) {
    return find(kTextEncoders, network);
}
const VideoVaeKind& video_vae_kind(const format::Network& network) {
    return find(kVideoVaes, network);
}

void add_denoising_kind(DenoisingKind kind) {
    denoising_kinds().push_back(std::move(kind));
}

}  // namespace quantsparse::models
