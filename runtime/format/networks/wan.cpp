#include "format/networks/wan.hpp"

#include "format/model_bundle.hpp"
#include "format/networks/umt5.hpp"
#include "format/networks/wan_dit.hpp"
#include "format/networks/wan_vae.hpp"

namespace quantsparse::format {
namespace {

void fit_t2v(ModelBundle& bundle, const std::string& where) {
    const auto& dit = bundle.network("transformer").geometry;
    require_equal(where, "the transformer's text_dim", dit.text_width, "the text encoder's dim",
                  bundle.network("text_encoder").geometry.text_width);
    require_equal(where, "the transformer's in_dim", dit.in_channels, "the VAE's z_dim",
                  bundle.network("vae").geometry.in_channels);
    require_equal(where, "the transformer's out_dim", dit.out_channels, "its in_dim",
                  dit.in_channels);
    // The encoder is run on as many tokens as the transformer takes.
    auto& encoder = bundle.components.at("text_encoder").network;
    auto config = encoder.config_as<Umt5Config>();
    config.text_len = dit.text_tokens;
    encoder.config = config;
}

ModelBundle released(const WanDitConfig& transformer) {
    WanVaeConfig vae;
    set_released_latent_statistics(vae);
    ModelBundle bundle;
    bundle.architecture = "wan2.1-t2v";
    bundle.components["transformer"] = {describe_wan_dit(transformer), nullptr};
    bundle.components["text_encoder"] = {describe_umt5({}), nullptr};
    bundle.components["vae"] = {describe_wan_vae(vae, false), nullptr};
    return bundle;
}

ModelBundle released_14b() {
    WanDitConfig transformer;
    transformer.dim = 5120;
    transformer.ffn_dim = 13824;
    transformer.num_heads = 40;
    transformer.num_layers = 40;
    return released(transformer);
}

}  // namespace

Architecture wan21_t2v() {
    Architecture architecture;
    architecture.name = "wan2.1-t2v";
    architecture.title = "Wan2.1 text-to-video";
    architecture.pipeline_class = "WanPipeline";
    architecture.parts = {
        {"transformer",
         "wan-dit",
         "transformer",
         {"diffusion_pytorch_model", "wan2.1_t2v", "transformer"},
         "diffusion_models",
         "unet"},
        {"text_encoder", "umt5", "text encoder", {"t5"}, "text_encoders", "clip"},
        {"vae", "wan-vae", "VAE", {"VAE", "vae"}, "vae", "vae"},
    };
    architecture.tokenizers = {
        {"tokenizer",
         "spiece.model",
         {"google/umt5-xxl/spiece.model", "spiece.model", "tokenizer/spiece.model"},
         "text_encoder",
         "spiece_model"},
    };
    architecture.fit = fit_t2v;
    architecture.released = {{"wan-1.3b", [] { return released({}); }}, {"wan-14b", released_14b}};
    return architecture;
}

}  // namespace quantsparse::format
