#include "configurations.hpp"

#include <fmt/format.h>

#include <fstream>
#include <sstream>

#include "format/json_fields.hpp"
#include "format/networks/registry.hpp"
#include "pipeline/denoise.hpp"
#include "pipeline/recipes.hpp"
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
                    fmt::format("can't read the configuration '{}': name wan-1.3b, wan-14b, a "
                                "transformer's config.json or a diffusers folder",
                                file.string()));
    }
    return format::parse_json_object(text.str(), file.string());
}

}  // namespace

format::ModelBundle configurations(const ModelOptions& options) {
    const auto described = [&]() -> format::ModelBundle {
        for (const format::Architecture& architecture : format::architectures()) {
            for (const auto& released : architecture.released) {
                if (released.name == options.config) return released.describe();
            }
        }
        const fs::path path = options.config;
        if (fs::is_directory(path)) return format::describe_model(path);
        // A transformer's configuration; everything else is the first released model's.
        const format::Architecture& architecture = format::architectures().front();
        format::ModelBundle bundle = architecture.released.front().describe();
        const format::Part& part = architecture.parts.front();
        bundle.components[part.role].network =
            format::network_kind(part.kind).describe(read_config(path), nullptr, path.string());
        return bundle;
    };
    format::ModelBundle bundle = described();
    if (options.weight_bits < 16) {
        bundle.quantization.bits = {options.weight_bits, options.activation_bits};
    }
    return bundle;
}

const format::Component& transformer_of(const format::ModelBundle& bundle) {
    return bundle.at(pipeline::recipe_of(bundle.architecture).experts.front().role);
}

AttentionParameters periodic(AttentionParameters attention) {
    constexpr int kPaperInterval = 5;
    attention.refresh_interval = attention.refresh_interval.value_or(kPaperInterval);
    return attention;
}

models::DenoisingOptions transformer_options(const ModelOptions& options,
                                             const format::ModelBundle& bundle,
                                             const models::LatentShape& latent, int branches,
                                             const attention::StepSchedule& schedule) {
    models::DenoisingOptions result =
        pipeline::denoising_options(transformer_of(bundle), bundle.quantization, latent, branches,
                                    options.storage == Storage::half, &schedule);
    result.transforms.rotated = result.transforms.scaled =
        options.weight_bits < 16 && options.rotated;
    return result;
}

models::LatentShape latent_of_tokens(const format::ModelBundle& bundle, int frames, int rows,
                                     int columns) {
    const format::NetworkGeometry& transformer = transformer_of(bundle).network.geometry;
    return {transformer.in_channels, frames * transformer.patch[0], rows * transformer.patch[1],
            columns * transformer.patch[2]};
}

Json config_json(const ModelOptions& options, const format::ModelBundle& bundle) {
    const format::Network& network = transformer_of(bundle).network;
    Json json = format::network_kind(network.kind).config_json(network);
    json["name"] = options.config;
    json["weight_bits"] = options.weight_bits;
    json["activation_bits"] = options.weight_bits < 16 ? options.activation_bits : 16;
    json["rotated"] = options.weight_bits < 16 && options.rotated;
    json["storage"] = options.storage == Storage::half ? "half" : "fp32";
    return json;
}

std::string bits_text(const ModelOptions& options) {
    if (options.weight_bits >= 16) return "floating-point weights";
    return fmt::format("W{}A{}{}", options.weight_bits, options.activation_bits,
                       options.rotated ? ", rotated" : "");
}

}  // namespace quantsparse::bench
