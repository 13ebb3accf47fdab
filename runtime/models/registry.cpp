#include "models/registry.hpp"

#include "format/networks/registry.hpp"
#include "models/umt5_encoder.hpp"
#include "models/wan_dit.hpp"
#include "models/wan_step_changes.hpp"
#include "models/wan_vae.hpp"

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

}  // namespace

const DenoisingKind& denoising_kind(const format::Network& network) {
    return format::row_of(denoising_kinds(), network, "run");
}
const TextEncoderKind& text_encoder_kind(const format::Network& network) {
    return format::row_of(kTextEncoders, network, "run");
}
const VideoVaeKind& video_vae_kind(const format::Network& network) {
    return format::row_of(kVideoVaes, network, "run");
}

void add_denoising_kind(DenoisingKind kind) {
    denoising_kinds().push_back(std::move(kind));
}

}  // namespace quantsparse::models
