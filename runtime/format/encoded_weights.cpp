#include "format/encoded_weights.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "format/convrot.hpp"
#include "format/encoded_weight.hpp"
#include "format/file_kind.hpp"
#include "format/json_fields.hpp"
#include "format/text.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::format {
namespace {

using nlohmann::json;

constexpr int kTile = 128;  ///< rows and columns of a scale where a file has tiles

/// Where some files keep the sizes.
json params_of(const json& object) {
    const json* params = find_field(object, {"params"});
    return params != nullptr && params->is_object() ? *params : json::object();
}

/// Gathers what stands beside a weight, and takes it out of the checkpoint.
class Reader {
  public:
    Reader(Checkpoint& checkpoint, std::string weight)
        : checkpoint_(checkpoint), weight_(std::move(weight)) {
        linear_ = weight_.substr(0, weight_.rfind(".weight"));
    }

    /// Nothing where the weight stands for itself.
    std::shared_ptr<const EncodedWeight> read();

  private:
    [[noreturn]] void reject(ErrorCode code, const std::string& what) const {
        throw Error(code, fmt::format("'{}': the weight of '{}' {}", checkpoint_.path().string(),
                                      printable(linear_), what));
    }
    /// A neighbour, taken out of the checkpoint; nothing where there is none.
    std::optional<TensorView> take(const std::string& suffix) {
        const auto* found = checkpoint_.find(linear_ + suffix);
        if (found == nullptr) {
            return std::nullopt;
        }
        auto view = *found;
        checkpoint_.erase(view.name);
        return view;
    }
    json comfy_object();
    void read_shape(EncodedWeight& encoded) const;
    void read_scale(EncodedWeight& encoded, TensorView scale, bool tiles) const;
    void read_only_scale(EncodedWeight& encoded);
    void read_four_bits(EncodedWeight& encoded, const json& object);
    void read_rotation(EncodedWeight& encoded, const json& object) const;

    Checkpoint& checkpoint_;
    std::string weight_, linear_;
};

/// What `comfy_quant` says of the linear; empty where nothing does.
json Reader::comfy_object() {
    const auto view = take(".comfy_quant");
    if (!view) {
        const auto* stated = checkpoint_.stated_encoding(linear_);
        return stated != nullptr ? *stated : json::object();
    }
    const std::string_view text(reinterpret_cast<const char*>(view->bytes.data()),
                                view->bytes.size());
    const auto object = json::parse(text, nullptr, false);
    if (!object.is_object()) {
        reject(ErrorCode::bad_file,
               "has a comfy_quant that is no JSON object, so its quantisation isn't known; "
               "download the file again");
    }
    return object;
}

void Reader::read_shape(EncodedWeight& encoded) const {
    const auto& shape = encoded.weight.shape;
    std::int64_t rows = shape.empty() ? 0 : shape.front();
    std::int64_t columns = rows == 0 ? 0 : encoded.weight.element_count() / rows;
    if (encoded.four_bits) {
        columns *= 2;
    }
    if (rows < 1 || columns < 1 || rows > (1 << 24) || columns > (1 << 24) ||
        (encoded.four_bits && shape.size() != 2)) {
        reject(ErrorCode::bad_file,
               fmt::format("has the shape {}, which no quantised linear has", shape_text(shape)));
    }
    encoded.rows = static_cast<int>(rows);
    encoded.columns = static_cast<int>(columns);
    encoded.tile_rows = encoded.rows;
    encoded.tile_columns = encoded.columns;
}

/// `tiles`: the name says that rows and columns are cut alike.
void Reader::read_scale(EncodedWeight& encoded, TensorView scale, bool tiles) const {
    auto shape = scale.shape;
    while (!shape.empty() && shape.back() == 1) {
        shape.pop_back();
    }
    shape.resize(std::max<std::size_t>(shape.size(), 2), 1);
    const auto fits = [&](std::int64_t extent, int whole, int tile) {
        return extent == (whole + tile - 1) / tile;
    };
    const int rows = encoded.rows;
    const int columns = encoded.columns;
    const std::int64_t r = shape[0];
    const std::int64_t c = shape[1];
    if (shape.size() == 2 && r == 1 && c == 1) {
        encoded.tile_rows = rows;
        encoded.tile_columns = columns;
    } else if (shape.size() == 2 && !tiles && r == rows && c >= 1 && columns % c == 0) {
        encoded.tile_rows = 1;
        encoded.tile_columns = static_cast<int>(columns / c);
    } else if (shape.size() == 2 && fits(r, rows, kTile) && fits(c, columns, kTile)) {
        encoded.tile_rows = encoded.tile_columns = kTile;
    } else {
        reject(ErrorCode::unsupported,
               fmt::format("[{}, {}] has scales of the shape {}, which this version does not read; "
                           "use the fp16 or bf16 file",
                           rows, columns, shape_text(scale.shape)));
    }
    if (!is_floating(scale.dtype)) {
        reject(ErrorCode::bad_file, fmt::format("has scales of the type {}", name_of(scale.dtype)));
    }
    encoded.scale_columns = static_cast<int>(c);
    encoded.scale = std::move(scale);
}

/// Under whichever of its names; two of them would be two meanings.
void Reader::read_only_scale(EncodedWeight& encoded) {
    for (const char* suffix :
         {".weight_scale", ".scale_weight", ".weight._scale", ".weight_scale_inv"}) {
        auto scale = take(suffix);
        if (!scale) {
            continue;
        }
        if (!encoded.scale.name.empty()) {
            reject(ErrorCode::unsupported,
                   fmt::format("has two scales, '{}' and '{}', and which counts isn't clear",
                               printable(encoded.scale.name), printable(scale->name)));
        }
        read_scale(encoded, std::move(*scale), std::string_view(suffix).ends_with("_inv"));
    }
    if (!encoded.scale.name.empty() && all_zero(encoded.weight.bytes)) {
        reject(ErrorCode::bad_file,
               "holds nothing but zeros; the download is incomplete, get the file again");
    }
}

void Reader::read_four_bits(EncodedWeight& encoded, const json& object) {
    const json params = params_of(object);
    const auto& holder = object.contains("group_size") ? object : params;
    encoded.group = integer(holder, {"group_size"}, linear_, kW4A8Group, 1, 4096);
    const auto relative = take(".weight_s_rel");
    auto channel = take(".weight_s_channel");
    if (!relative || !channel || encoded.columns % encoded.group != 0 ||
        relative->shape !=
            std::vector<std::int64_t>{encoded.rows, encoded.columns / encoded.group}) {
        reject(ErrorCode::bad_file,
               "has 4 bits, but no weight_s_channel and weight_s_rel that fit; the file is "
               "incomplete, download it again");
    }
    encoded.relative = *relative;
    for (std::size_t i = 0; i < 16; ++i) {
        encoded.levels[i] = static_cast<float>(i) - 8;
    }
    if (const auto codebook = take(".weight_codebook")) {
        if (codebook->element_count() != 16) {
            reject(ErrorCode::bad_file, "has a codebook that does not hold 16 levels");
        }
        to_float(*codebook, encoded.levels);
    }
    if (const auto correction = take(".weight_correction")) {
        if (correction->shape !=
            std::vector<std::int64_t>{encoded.columns / encoded.group, encoded.rows}) {
            reject(ErrorCode::bad_file, "has a weight_correction of another shape");
        }
        encoded.correction = to_float(*correction);
    }
    read_scale(encoded, std::move(*channel), false);
}

void Reader::read_rotation(EncodedWeight& encoded, const json& object) const {
    const json params = params_of(object);
    const auto& holder = object.contains("convrot_groupsize") ? object : params;
    const bool rotated = encoded.four_bits || boolean(object, "convrot", false, linear_) ||
                         boolean(params, "convrot", false, linear_);
    if (!rotated) {
        return;
    }
    const int group = integer(holder, {"convrot_groupsize"}, linear_, kConvRotGroup, 1, 1 << 20);
    if (!is_convrot_group(group, encoded.columns)) {
        reject(ErrorCode::unsupported,
               fmt::format("is rotated in groups of {}, which do not divide its {} columns or are "
                           "no power of 4",
                           group, encoded.columns));
    }
    encoded.rotation = group;
}

std::shared_ptr<const EncodedWeight> Reader::read() {
    auto encoded = std::make_shared<EncodedWeight>();
    encoded->name = linear_;
    encoded->weight = checkpoint_.at(weight_);
    const json object = comfy_object();
    const bool stated = !object.empty();
    const json* word = find_field(object, {"format"});
    const std::string format = word != nullptr && word->is_string() ? word->get<std::string>() : "";
    encoded->four_bits = format == "asym_w4a8_int8";
    const bool known = format == "float8_e4m3fn" || format == "float8_e5m2" ||
                       format == "int8_tensorwise" || encoded->four_bits;
    if (stated && !known) {
        reject(ErrorCode::unsupported,
               fmt::format("is quantised as '{}', which this version does not read; use the fp16, "
                           "bf16, fp8 or int8 file",
                           printable(format)));
    }
    take(".scale_input");  // for activations in F8, which nothing here uses
    take(".input_scale");
    read_shape(*encoded);
    if (encoded->four_bits) {
        if (!encoded->integers()) {
            reject(ErrorCode::bad_file, "is not of the integers that its comfy_quant says");
        }
        read_four_bits(*encoded, object);
    } else {
        read_only_scale(*encoded);
        if (encoded->scale.name.empty()) {
            if (stated || encoded->weight.dtype == DType::i8) {
                reject(ErrorCode::bad_file,
                       fmt::format("is of 8 bit ({}) and no scale that this version knows stands "
                                   "beside it; use the fp16 or bf16 file",
                                   name_of(encoded->weight.dtype)));
            }
            return nullptr;
        }
    }
    read_rotation(*encoded, object);
    return encoded;
}

bool is_matrix_of_bytes(const TensorView& view) {
    return view.dtype == DType::f8_e4m3 || view.dtype == DType::f8_e5m2 || view.dtype == DType::i8;
}

}  // namespace

void decode_weights(Checkpoint& checkpoint) {
    // What quanto calls `weight._data` is the weight.
    for (const auto& name : checkpoint.names()) {
        constexpr std::string_view kQuanto = ".weight._data";
        if (name.ends_with(kQuanto)) {
            auto view = checkpoint.at(name);
            checkpoint.erase(name);
            view.name = name.substr(0, name.size() - 6);
            checkpoint.put(std::move(view));
        }
    }
    for (const auto& name : checkpoint.names()) {
        if (name.ends_with(".weight") && is_matrix_of_bytes(checkpoint.at(name))) {
            if (const auto encoded = Reader(checkpoint, name).read()) {
                put_decoded(checkpoint, encoded);
            }
        }
    }
    // The marker of a file with scaled weights stands for all of them and for nothing by itself.
    checkpoint.erase("scaled_fp8");
}

Quantization native_quantization(const Network& network, const Checkpoint& checkpoint) {
    std::vector<std::pair<std::string, LinearBits>> groups;
    for (const auto& block : network.blocks) {
        for (const auto& group : block.groups) {
            const auto linears = linears_of(block, group);
            const auto* head = checkpoint.native(linears.front().name);
            const bool native =
                head != nullptr &&
                std::all_of(linears.begin(), linears.end(), [&](const LinearSpec& linear) {
                    const auto* rotation = checkpoint.native(linear.name);
                    return rotation != nullptr && *rotation == *head && linear.bias;
                });
            groups.emplace_back(block.prefix + group.name,
                                native ? LinearBits{8, 8, *head == 0 ? -1 : *head} : LinearBits{});
        }
    }
    // What most groups have stands for all, so that the exceptions are what is named.
    Quantization quantization;
    std::ptrdiff_t most = 0;
    for (const auto& [name, bits] : groups) {
        const auto same = std::count_if(groups.begin(), groups.end(),
                                        [&](const auto& other) { return other.second == bits; });
        if (same > most) {
            most = same;
            quantization.bits = bits;
        }
    }
    for (const auto& [name, bits] : groups) {
        if (bits != quantization.bits) {
            quantization.groups[name] = bits;
        }
    }
    return quantization;
}

}  // namespace quantsparse::format
