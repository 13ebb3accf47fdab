#include "configurations.hpp"

#include <fmt/format.h>

#include <fstream>
#include <sstream>

#include "format/config_json.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::bench {
namespace {

namespace fs = std::filesystem;

nlohmann::json read_config(const fs::path& file) {
    std::ifstream in(file, std::ios::binary);
    std::ostringstream text;
    text << in.rdbuf();
    if (!in) {
        throw Error(ErrorCode::io,
                    fmt::format("cannot read the configuration '{}': name wan-1.3b, wan-14b, a "
                                "transformer's config.json or a diffusers folder",
                                file.string()));
    }
    return format::parse_json_object(text.str(), file.string());
}

}  // namespace

format::ModelBundle configurations(const ModelOptions& options) {
    format::ModelBundle bundle;
    format::set_released_latent_statistics(bundle.vae_config);
    bundle.weight_bits = options.weight_bits;
    bundle.activation_bits = options.weight_bits < 16 ? options.activation_bits : 16;
    auto& dit = bundle.transformer_config;
    if (options.config == "wan-14b") {
        dit.dim = 5120;
        dit.ffn_dim = 13824;
        dit.num_heads = 40;
        dit.num_layers = 40;
    } else if (options.config != "wan-1.3b") {
        const fs::path path = options.config;
        const bool folder = fs::is_directory(path);
        const fs::path file = folder ? path / "transformer" / "config.json" : path;
        dit = format::wan_dit_config_from_json(read_config(file), file.string());
        if (folder) {
            const fs::path text = path / "text_encoder" / "config.json";
            const fs::path vae = path / "vae" / "config.json";
            bundle.text_encoder_config =
                format::umt5_config_from_json(read_config(text), text.string());
            bundle.vae_config = format::wan_vae_config_from_json(read_config(vae), vae.string());
        }
    }
    return bundle;
}

Json config_json(const ModelOptions& options, const format::WanDitConfig& dit) {
    return {{"name", options.config},
            {"dim", dit.dim},
            {"ffn_dim", dit.ffn_dim},
            {"num_heads", dit.num_heads},
            {"num_layers", dit.num_layers},
            {"weight_bits", options.weight_bits},
            {"activation_bits", options.weight_bits < 16 ? options.activation_bits : 16},
            {"rotated", options.weight_bits < 16 && options.rotated},
            {"storage", options.storage == Storage::half ? "half" : "fp32"}};
}

std::string bits_text(const ModelOptions& options) {
    if (options.weight_bits >= 16) return "floating-point weights";
    return fmt::format("W{}A{}{}", options.weight_bits, options.activation_bits,
                       options.rotated ? ", rotated" : "");
}

}  // namespace quantsparse::bench
