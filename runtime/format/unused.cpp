#include "format/unused.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "format/file_kind.hpp"
#include "format/model_file.hpp"
#include "format/text.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::format {
namespace {

using nlohmann::json;

bool contains_any(std::string_view name, std::initializer_list<std::string_view> pieces) {
    return std::any_of(pieces.begin(), pieces.end(), [&](std::string_view piece) {
        return name.find(piece) != std::string_view::npos;
    });
}

std::string_view last_part(std::string_view name) {
    const auto dot = name.rfind('.');
    return dot == std::string_view::npos ? name : name.substr(dot + 1);
}

bool is_part_of_an_adapter(std::string_view name) {
    return contains_any(name, {"lora", "hada_w", "lokr_", "dora_", "oft_"}) ||
           last_part(name).starts_with("diff");
}

/// What stands beside a weight in files of adapters and quantisers, and changes its value.
bool is_part_of_a_value(std::string_view name) {
    const auto last = last_part(name);
    return is_part_of_an_adapter(name) || contains_any(name, {"quant_state"}) ||
           contains_any(last, {"scale", "zero", "absmax", "smooth", "codebook", "quant", "SCB",
                               "qweight", "g_idx", "proj_down", "proj_up"});
}

/// The average of weights that trainers save beside them.
bool is_average(std::string_view name, const std::set<std::string, std::less<>>& on_disk) {
    for (auto dot = name.find('.'); dot != std::string_view::npos; dot = name.find('.', dot + 1)) {
        if (on_disk.contains(name.substr(dot + 1))) {
            return contains_any(name.substr(0, dot), {"ema", "average", "shadow"});
        }
    }
    return false;
}

/// Tensors that a training step or a tool leaves in a file, and buffers that are computed anew.
bool is_harmless(std::string_view name, const NetworkKind& kind) {
    const bool listed =
        std::any_of(kind.harmless.begin(), kind.harmless.end(),
                    [&](const std::string& start) { return name.starts_with(start); });
    return listed || name.ends_with("position_ids") || name.ends_with("inv_freq") ||
           name.ends_with("num_batches_tracked");
}

/// A matrix, a convolution: something that other values would be multiplied by.
bool is_weight(const TensorView& view) {
    const auto wide = std::count_if(view.shape.begin(), view.shape.end(),
                                    [](std::int64_t extent) { return extent > 1; });
    return is_floating(view.dtype) && wide >= 2 && view.element_count() > 0;
}

/// The block of "blocks.12.rest"; nothing for other names.
std::optional<int> block_of(std::string_view name, std::string_view list) {
    int index = 0;
    if (!name.starts_with(list)) {
        return std::nullopt;
    }
    const auto rest = name.substr(list.size());
    const auto read = std::from_chars(rest.data(), rest.data() + rest.size(), index);
    if (read.ec != std::errc{} || read.ptr == rest.data() + rest.size() || *read.ptr != '.') {
        return std::nullopt;
    }
    return index;
}

/// Blocks are counted by their names, also of networks without linears to quantise.
int highest_block(const std::set<std::string, std::less<>>& names, std::string_view list) {
    int highest = -1;
    for (const auto& name : names) {
        highest = std::max(highest, block_of(name, list).value_or(-1));
    }
    return highest;
}

/// What a linear that is kept as codes has in the place of a weight (model_file.hpp).
void add_packed(const Checkpoint& checkpoint, const Network& network,
                std::set<std::string, std::less<>>& known) {
    for (const auto& block : network.blocks) {
        for (const auto& linear : linears_of(block)) {
            if (checkpoint.find(linear.name + ".codes") == nullptr &&
                checkpoint.find(linear.name + ".channel_scale") == nullptr) {
                continue;
            }
            for (const char* part :
                 {".codes", ".scale", ".bias", ".channel_scale", ".rotation_signs", ".rotation",
                  ".activation_clip", kLoraDown, kLoraUp}) {
                known.insert(linear.name + part);
            }
        }
    }
}

/// Another network's product beside codes, in a file that has several: checked with that network.
bool is_beside_codes(const std::string& name, const std::set<std::string, std::less<>>& on_disk) {
    return on_disk.contains(name.substr(0, name.rfind('.')) + ".codes");
}

struct Unused {
    std::vector<std::string> values, blocks, weights, others;
};

[[noreturn]] void refuse(const Checkpoint& checkpoint, const std::string& what) {
    throw Error(ErrorCode::unsupported, fmt::format("'{}' {}", checkpoint.path().string(), what));
}

Unused unused_of(const Checkpoint& checkpoint, const std::set<std::string, std::less<>>& known,
                 const NetworkKind& kind) {
    Unused unused;
    const int blocks = highest_block(known, "blocks.");
    const auto names = checkpoint.names_on_disk();
    const std::set<std::string, std::less<>> on_disk(names.begin(), names.end());
    for (const auto& name : checkpoint.names()) {
        if (known.contains(name) || is_harmless(name, kind)) {
            continue;
        }
        if (is_average(name, on_disk)) {
            unused.others.push_back(name);
        } else if (is_part_of_a_value(name)) {
            unused.values.push_back(name);
        } else if (blocks >= 0 && block_of(name, "blocks.").value_or(-1) > blocks) {
            unused.blocks.push_back(name);
        } else if (is_weight(checkpoint.at(name))) {
            unused.weights.push_back(name);
        } else {
            unused.others.push_back(name);
        }
    }
    for (const auto& name : checkpoint.outside()) {
        if (is_part_of_an_adapter(name) && !is_beside_codes(name, on_disk)) {
            unused.values.push_back(name);
        }
    }
    return unused;
}

}  // namespace

void check_unused_tensors(const Checkpoint& checkpoint, const Network& network,
                          const NetworkKind& kind, const std::string& title,
                          std::vector<std::string>& warnings) {
    std::set<std::string, std::less<>> known;
    for (const auto& tensor : network.tensors) {
        known.insert(tensor.name);
    }
    add_packed(checkpoint, network, known);
    const Unused unused = unused_of(checkpoint, known, kind);
    if (!unused.values.empty()) {
        refuse(checkpoint,
               fmt::format("holds {} tensors of an adapter (LoRA, diff) or a quantisation (scale) "
                           "that this version doesn't apply: {}; use a file without them",
                           unused.values.size(), list_names(unused.values, 3)));
    }
    if (!unused.blocks.empty()) {
        refuse(checkpoint,
               fmt::format("holds {} tensors of blocks beyond the {} that num_layers of "
                           "its configuration says: {}; they are of different models",
                           unused.blocks.size(), highest_block(known, "blocks.") + 1,
                           list_names(unused.blocks, 3)));
    }
    if (!unused.weights.empty()) {
        refuse(checkpoint,
               fmt::format("holds {} weights that the {} of this version does not know: {}; it is "
                           "of a relative that computes something else",
                           unused.weights.size(), title, list_names(unused.weights, 3)));
    }
    if (!unused.others.empty()) {
        warnings.push_back(fmt::format("'{}' holds {} tensors that are not used: {}",
                                       checkpoint.path().string(), unused.others.size(),
                                       list_names(unused.others, 3)));
    }
}

void check_zero_weights(const Checkpoint& checkpoint, const Network& network,
                        const std::string& title) {
    std::vector<std::string> zeros;
    for (const auto& tensor : network.tensors) {
        const auto* view = checkpoint.find(tensor.name);
        if (view != nullptr && is_weight(*view) && tensor.name.ends_with("weight") &&
            !view->bytes.empty() && all_zero(view->bytes)) {
            zeros.push_back(tensor.name);
        }
    }
    if (!zeros.empty()) {
        throw Error(
            ErrorCode::bad_file,
            fmt::format("'{}' holds nothing but zeros in {} weights of the {}: {}; the "
                        "download is incomplete, get the file again",
                        checkpoint.path().string(), zeros.size(), title, list_names(zeros, 3)));
    }
}

void check_unused_keys(const json& config, const NetworkKind& kind, const std::string& where,
                       std::vector<std::string>& warnings) {
    std::vector<std::string> unused;
    for (const auto& [key, value] : config.items()) {
        const bool known = std::find(kind.config_keys.begin(), kind.config_keys.end(), key) !=
                           kind.config_keys.end();
        if (!known && !value.is_null() && !key.starts_with("_")) {
            unused.push_back(key);
        }
    }
    if (!unused.empty()) {
        warnings.push_back(fmt::format("'{}' has {} keys that this version does not know: {}",
                                       where, unused.size(), list_names(unused, 5)));
    }
}

std::string what_network(const std::vector<std::string>& names) {
    struct Mark {
        std::string_view piece;
        const char* what;
    };
    static constexpr std::array kMarks = {
        Mark{"lora_", "a LoRA, which goes beside a model's transformer, not into its place"},
        Mark{".lora", "a LoRA, which goes beside a model's transformer, not into its place"},
        Mark{"hada_w", "a LoHa adapter, which is not supported"},
        Mark{"lokr_", "a LoKr adapter, which is not supported"},
        Mark{"patch_embedding.", "a part of a Wan transformer"},
        Mark{"double_blocks.", "a transformer of Flux or HunyuanVideo, which is not supported"},
        Mark{"transformer_blocks.", "a transformer of another family, which is not supported"},
        Mark{"joint_blocks.", "a transformer of Stable Diffusion 3, which is not supported"},
        Mark{"input_blocks.", "a U-Net of Stable Diffusion, which is not supported"},
        Mark{"text_model.", "a CLIP text encoder, which Wan does not use"},
        Mark{"visual.", "a CLIP image encoder, which this version does not use"},
        Mark{"vision_model.", "a CLIP image encoder, which this version does not use"},
        Mark{"model.layers.", "a language model, which Wan does not use"},
        Mark{"encoder.block.", "a T5 text encoder, not Wan's umT5"},
        Mark{"decoder.mid.block_1.", "the VAE of Stable Diffusion or Flux: another VAE than Wan's"},
        Mark{"decoder.up_blocks.", "another VAE than Wan's"},
        Mark{"decoder.upsamples.", "another VAE than Wan2.1's"},
        Mark{"decoder.", "a tiny or other VAE, which is not supported in the place of Wan's"},
        Mark{"taesd", "a tiny VAE, which is not supported in the place of Wan's"},
    };
    for (const auto& mark : kMarks) {
        const bool met = std::any_of(names.begin(), names.end(), [&](const std::string& name) {
            return name.find(mark.piece) != std::string::npos;
        });
        if (met) {
            return fmt::format("holds {}", mark.what);
        }
    }
    return {};
}

}  // namespace quantsparse::format
