#include "format/required_tensors.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "format/bit_packing.hpp"
#include "format/config_json.hpp"
#include "format/model_file.hpp"
#include "format/text.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::format {
namespace {

using Shape = std::vector<std::int64_t>;

/// Collects names and shapes under a moving prefix.
class List {
  public:
    void add(const std::string& name, Shape shape) { tensors_.push_back({name, std::move(shape)}); }
    /// A weight of any rank whose first dimension is the output, and its bias.
    void with_bias(const std::string& name, const Shape& shape) {
        add(name + ".weight", shape);
        add(name + ".bias", {shape.front()});
    }
    std::vector<RequiredTensor> take() { return std::move(tensors_); }

  private:
    std::vector<RequiredTensor> tensors_;
};

void add_residual(List& list, const std::string& name, int in, int out) {
    list.add(name + ".residual.0.gamma", {in, 1, 1, 1});
    list.with_bias(name + ".residual.2", {out, in, 3, 3, 3});
    list.add(name + ".residual.3.gamma", {out, 1, 1, 1});
    list.with_bias(name + ".residual.6", {out, out, 3, 3, 3});
    if (in != out) {
        list.with_bias(name + ".shortcut", {out, in, 1, 1, 1});
    }
}

void add_middle(List& list, const std::string& network, int width) {
    add_residual(list, network + ".middle.0", width, width);
    list.add(network + ".middle.1.norm.gamma", {width, 1, 1});
    list.with_bias(network + ".middle.1.to_qkv", {3 * width, width, 1, 1});
    list.with_bias(network + ".middle.1.proj", {width, width, 1, 1});
    add_residual(list, network + ".middle.2", width, width);
}

void add_decoder(List& list, const WanVaeConfig& config) {
    const int stages = static_cast<int>(config.dim_mult.size());
    int width = config.dim * config.dim_mult.back();
    list.with_bias("conv2", {config.z_dim, config.z_dim, 1, 1, 1});
    list.with_bias("decoder.conv1", {width, config.z_dim, 3, 3, 3});
    add_middle(list, "decoder", width);
    int index = 0;
    for (int stage = 0; stage < stages; ++stage) {
        const int out = config.dim * config.dim_mult[static_cast<std::size_t>(stages - 1 - stage)];
        // The upsampler before stages 1 to 3 halved the channels (wan fact 19).
        int in = stage >= 1 && stage <= 3 ? width / 2 : width;
        for (int block = 0; block <= config.num_res_blocks; ++block) {
            add_residual(list, fmt::format("decoder.upsamples.{}", index++), in, out);
            in = out;
        }
        width = out;
        if (stage + 1 < stages) {
            const auto name = fmt::format("decoder.upsamples.{}", index++);
            list.with_bias(name + ".resample.1", {out / 2, out, 3, 3});
            // The list is the encoder's, reversed: its last entry is the decoder's first.
            if (config.temporal_downsample[static_cast<std::size_t>(stages - 2 - stage)]) {
                list.with_bias(name + ".time_conv", {2 * out, out, 3, 1, 1});
            }
        }
    }
    list.add("decoder.head.0.gamma", {width, 1, 1, 1});
    list.with_bias("decoder.head.2", {3, width, 3, 3, 3});
}

void add_encoder(List& list, const WanVaeConfig& config) {
    const std::size_t stages = config.dim_mult.size();
    int width = config.dim;
    list.with_bias("encoder.conv1", {width, 3, 3, 3, 3});
    int index = 0;
    for (std::size_t stage = 0; stage < stages; ++stage) {
        const int out = config.dim * config.dim_mult[stage];
        for (int block = 0; block < config.num_res_blocks; ++block) {
            add_residual(list, fmt::format("encoder.downsamples.{}", index++), width, out);
            width = out;
        }
        if (stage + 1 < stages) {
            const auto name = fmt::format("encoder.downsamples.{}", index++);
            list.with_bias(name + ".resample.1", {out, out, 3, 3});
            if (config.temporal_downsample[stage]) {
                list.with_bias(name + ".time_conv", {out, out, 3, 1, 1});
            }
        }
    }
    add_middle(list, "encoder", width);
    list.add("encoder.head.0.gamma", {width, 1, 1, 1});
    list.with_bias("encoder.head.2", {2 * config.z_dim, width, 3, 3, 3});
    list.with_bias("conv1", {2 * config.z_dim, 2 * config.z_dim, 1, 1, 1});
}

bool is_floating(DType dtype) {
    return dtype == DType::f64 || dtype == DType::f32 || dtype == DType::f16 ||
           dtype == DType::bf16 || dtype == DType::f8_e4m3;
}

void check_dtype(const Checkpoint& checkpoint, const TensorView& view, bool fits,
                 const char* wanted) {
    if (!fits) {
        throw Error(
            ErrorCode::bad_file,
            fmt::format("tensor '{}' of '{}' has dtype {} where {} is needed", printable(view.name),
                        checkpoint.path().string(), name_of(view.dtype), wanted));
    }
}

/// Scales and signs multiply everything: one bad value would spoil the clip without a word.
void check_values(const Checkpoint& checkpoint, const std::string& name, bool (*allowed)(float),
                  const char* wanted) {
    const auto* view = checkpoint.find(name);
    if (view == nullptr) {
        return;
    }
    const auto values = to_float(*view);
    if (!std::all_of(values.begin(), values.end(), allowed)) {
        throw Error(ErrorCode::bad_file,
                    fmt::format("tensor '{}' of '{}' holds values that are not {}; the file is "
                                "damaged, calibrate again",
                                name, checkpoint.path().string(), wanted));
    }
}

void throw_missing(const Checkpoint& checkpoint, const char* network,
                   const std::vector<std::string>& missing) {
    if (!missing.empty()) {
        throw Error(
            ErrorCode::bad_file,
            fmt::format("'{}' lacks {} tensor{} of the {}: {}; the file is incomplete or of "
                        "another model",
                        checkpoint.path().string(), missing.size(), missing.size() == 1 ? "" : "s",
                        network, list_names(missing)));
    }
}

}  // namespace

std::vector<RequiredTensor> required_tensors(const WanDitConfig& config) {
    List list;
    const std::int64_t dim = config.dim;
    const std::int64_t patch =
        std::int64_t{config.patch_size[0]} * config.patch_size[1] * config.patch_size[2];
    list.with_bias("patch_embedding", {dim, config.in_dim, config.patch_size[0],
                                       config.patch_size[1], config.patch_size[2]});
    list.with_bias("text_embedding.0", {dim, config.text_dim});
    list.with_bias("text_embedding.2", {dim, dim});
    list.with_bias("time_embedding.0", {dim, config.freq_dim});
    list.with_bias("time_embedding.2", {dim, dim});
    list.with_bias("time_projection.1", {6 * dim, dim});
    for (int layer = 0; layer < config.num_layers; ++layer) {
        const auto block = fmt::format("blocks.{}.", layer);
        list.add(block + "modulation", {1, 6, dim});
        if (config.cross_attn_norm) {
            list.add(block + "norm3.weight", {dim});
            list.add(block + "norm3.bias", {dim});
        }
        for (const char* attention : {"self_attn", "cross_attn"}) {
            if (config.qk_norm) {
                list.add(block + attention + ".norm_q.weight", {dim});
                list.add(block + attention + ".norm_k.weight", {dim});
            }
        }
    }
    for (const auto& linear : block_linears(config)) {
        list.with_bias(linear.name, {linear.out_features, linear.in_features});
    }
    list.with_bias("head.head", {patch * config.out_dim, dim});
    list.add("head.modulation", {1, 2, dim});
    return list.take();
}

std::vector<RequiredTensor> required_tensors(const Umt5Config& config) {
    List list;
    const std::int64_t dim = config.dim;
    list.add("token_embedding.weight", {config.vocab_size, dim});
    for (int layer = 0; layer < config.num_layers; ++layer) {
        const auto block = fmt::format("blocks.{}.", layer);
        list.add(block + "norm1.weight", {dim});
        list.add(block + "norm2.weight", {dim});
        for (const char* name : {"q", "k", "v"}) {
            list.add(block + "attn." + name + ".weight", {config.dim_attn, dim});
        }
        list.add(block + "attn.o.weight", {dim, config.dim_attn});
        list.add(block + "pos_embedding.embedding.weight", {config.num_buckets, config.num_heads});
        list.add(block + "ffn.gate.0.weight", {config.dim_ffn, dim});
        list.add(block + "ffn.fc1.weight", {config.dim_ffn, dim});
        list.add(block + "ffn.fc2.weight", {dim, config.dim_ffn});
    }
    list.add("norm.weight", {dim});
    return list.take();
}

std::vector<RequiredTensor> required_tensors(const WanVaeConfig& config, bool encoder) {
    List list;
    add_decoder(list, config);
    if (encoder) {
        add_encoder(list, config);
    }
    return list.take();
}

void check_tensors(const Checkpoint& checkpoint, const char* network,
                   const std::vector<RequiredTensor>& tensors) {
    std::vector<std::string> missing;
    for (const auto& tensor : tensors) {
        if (checkpoint.find(tensor.name) == nullptr) {
            missing.push_back(tensor.name);
        }
    }
    throw_missing(checkpoint, network, missing);
    for (const auto& tensor : tensors) {
        const auto& view = checkpoint.at(tensor.name, tensor.shape);
        check_dtype(checkpoint, view, is_floating(view.dtype), "a floating-point type");
    }
}

namespace {

/// Learned rotations and clipping: all blocks have them alike, since one Program runs them all.
void check_learned_inputs(const Checkpoint& checkpoint, const std::vector<BlockLinear>& linears) {
    std::map<int, std::int64_t> blocks;  // of the rotations by input width; 0: none
    const bool clipped = checkpoint.find(linears.front().name + ".activation_clip") != nullptr;
    for (const auto& linear : linears) {
        const auto rotation_name = linear.name + ".rotation";
        const auto* rotation = checkpoint.find(rotation_name);
        if (!is_input_head(linear)) {
            continue;  // shares its input with one that is checked
        }
        std::int64_t block = 0;
        if (rotation != nullptr) {
            block = rotation->shape.empty() ? 0 : rotation->shape.back();
            if (block < 4 || block % 4 != 0 || linear.in_features % block != 0) {
                throw Error(ErrorCode::bad_file,
                            fmt::format("tensor '{}' of '{}' has the shape {}; blocks of a "
                                        "multiple of 4 that divide {} are needed",
                                        rotation_name, checkpoint.path().string(),
                                        shape_text(rotation->shape), linear.in_features));
            }
            checkpoint.at(rotation_name, {linear.in_features / block, block, block});
            check_dtype(checkpoint, *rotation, is_floating(rotation->dtype),
                        "a floating-point type");
            // Elements of an orthogonal matrix, with the rounding of half precision.
            check_values(
                checkpoint, rotation_name, [](float value) { return std::fabs(value) <= 1.001f; },
                "between -1 and 1");
        }
        const auto known = blocks.emplace(linear.in_features, block).first;
        if (known->second != block) {
            throw Error(
                ErrorCode::bad_file,
                fmt::format("the rotation of '{}' in '{}' has blocks of {}, those before it "
                            "of {}; calibrate again",
                            linear.name, checkpoint.path().string(), block, known->second));
        }
        const auto clip_name = linear.name + ".activation_clip";
        if ((checkpoint.find(clip_name) != nullptr) != clipped) {
            throw Error(ErrorCode::bad_file,
                        fmt::format("'{}' has '.activation_clip' for some linears only ('{}'); "
                                    "calibrate again",
                                    checkpoint.path().string(), linear.name));
        }
        if (clipped) {
            check_dtype(checkpoint, checkpoint.at(clip_name, {1}),
                        checkpoint.at(clip_name).dtype == DType::f32, "F32");
            check_values(
                checkpoint, clip_name, [](float value) { return value > 0 && value <= 1; },
                "above 0, up to 1");
        }
    }
}

}  // namespace

void check_quantized_tensors(const Checkpoint& checkpoint, const WanDitConfig& config,
                             int weight_bits) {
    const auto linears = block_linears(config);
    std::set<std::string> packed;
    for (const auto& linear : linears) {
        packed.insert(linear.name + ".weight");
    }
    std::vector<RequiredTensor> floating = required_tensors(config);
    std::erase_if(floating, [&](const RequiredTensor& tensor) {
        return packed.find(tensor.name) != packed.end();
    });
    std::vector<RequiredTensor> codes;
    for (const auto& linear : linears) {
        codes.push_back({linear.name + ".codes",
                         codes_shape(linear.out_features, linear.in_features, weight_bits)});
        floating.push_back({linear.name + ".scale", {linear.out_features}});
        for (const char* optional : {".channel_scale", ".rotation_signs"}) {
            if (checkpoint.find(linear.name + optional) != nullptr) {
                floating.push_back({linear.name + optional, {linear.in_features}});
            }
        }
    }
    std::vector<std::string> missing;
    for (const auto* list : {&floating, &codes}) {
        for (const auto& tensor : *list) {
            if (checkpoint.find(tensor.name) == nullptr) {
                missing.push_back(tensor.name);
            }
        }
    }
    throw_missing(checkpoint, "transformer", missing);
    check_tensors(checkpoint, "transformer", floating);
    for (const auto& tensor : codes) {
        const auto& view = checkpoint.at(tensor.name, tensor.shape);
        check_dtype(checkpoint, view, view.dtype == DType::u32, "U32");
    }
    check_learned_inputs(checkpoint, linears);
    const auto positive = [](float value) { return value > 0 && std::isfinite(value); };
    const auto unit = [](float value) { return value == 1.0f || value == -1.0f; };
    for (const auto& linear : linears) {
        check_values(checkpoint, linear.name + ".scale", positive, "positive");
        check_values(checkpoint, linear.name + ".channel_scale", positive, "positive");
        check_values(checkpoint, linear.name + ".rotation_signs", unit, "+1 or -1");
    }
}

namespace {

std::int64_t dimension(const Checkpoint& checkpoint, const char* name, std::size_t axis) {
    const auto& view = checkpoint.at(name);
    if (axis >= view.shape.size() || view.shape[axis] < 1 || view.shape[axis] > (1 << 24)) {
        throw Error(ErrorCode::bad_file,
                    fmt::format("tensor '{}' of '{}' has the unexpected shape {}", name,
                                checkpoint.path().string(), shape_text(view.shape)));
    }
    return view.shape[axis];
}

/// Blocks are numbered without gaps: the count is one past the last that is there.
int count_blocks(const Checkpoint& checkpoint, const char* tensor_of_block) {
    int count = 0;
    while (checkpoint.find(fmt::format("blocks.{}.{}", count, tensor_of_block)) != nullptr) {
        ++count;
    }
    return std::max(count, 1);
}

}  // namespace

WanDitConfig infer_wan_dit_config(const Checkpoint& checkpoint) {
    WanDitConfig config;
    config.dim = static_cast<int>(dimension(checkpoint, "patch_embedding.weight", 0));
    config.in_dim = static_cast<int>(dimension(checkpoint, "patch_embedding.weight", 1));
    int patch = 1;
    for (std::size_t axis = 0; axis < 3; ++axis) {
        config.patch_size[axis] =
            static_cast<int>(dimension(checkpoint, "patch_embedding.weight", axis + 2));
        patch *= config.patch_size[axis];
    }
    config.out_dim = static_cast<int>(dimension(checkpoint, "head.head.weight", 0)) / patch;
    config.text_dim = static_cast<int>(dimension(checkpoint, "text_embedding.0.weight", 1));
    config.freq_dim = static_cast<int>(dimension(checkpoint, "time_embedding.0.weight", 1));
    const char* ffn =
        checkpoint.find("blocks.0.ffn.0.bias") ? "blocks.0.ffn.0.bias" : "blocks.0.ffn.0.weight";
    config.ffn_dim = static_cast<int>(dimension(checkpoint, ffn, 0));
    config.num_layers = count_blocks(checkpoint, "modulation");
    config.num_heads = config.dim % 128 == 0 ? config.dim / 128 : std::max(config.dim / 64, 1);
    config.qk_norm = checkpoint.find("blocks.0.self_attn.norm_q.weight") != nullptr;
    config.cross_attn_norm = checkpoint.find("blocks.0.norm3.weight") != nullptr;
    return config;
}

Umt5Config infer_umt5_config(const Checkpoint& checkpoint) {
    Umt5Config config;
    config.vocab_size = static_cast<int>(dimension(checkpoint, "token_embedding.weight", 0));
    config.dim = static_cast<int>(dimension(checkpoint, "token_embedding.weight", 1));
    config.dim_attn = static_cast<int>(dimension(checkpoint, "blocks.0.attn.q.weight", 0));
    config.dim_ffn = static_cast<int>(dimension(checkpoint, "blocks.0.ffn.fc1.weight", 0));
    config.num_buckets =
        static_cast<int>(dimension(checkpoint, "blocks.0.pos_embedding.embedding.weight", 0));
    config.num_heads =
        static_cast<int>(dimension(checkpoint, "blocks.0.pos_embedding.embedding.weight", 1));
    config.num_layers = count_blocks(checkpoint, "norm1.weight");
    return config;
}

WanVaeConfig infer_wan_vae_config(const Checkpoint& checkpoint) {
    WanVaeConfig config;
    config.dim = static_cast<int>(dimension(checkpoint, "decoder.head.0.gamma", 0));
    config.z_dim = static_cast<int>(dimension(checkpoint, "conv2.weight", 0));
    if (config.z_dim != 16) {
        throw Error(ErrorCode::bad_file,
                    fmt::format("'{}' has {} latent channels and no config.json beside it with "
                                "latents_mean and latents_std",
                                checkpoint.path().string(), config.z_dim));
    }
    set_released_latent_statistics(config);
    return config;
}

}  // namespace quantsparse::format
