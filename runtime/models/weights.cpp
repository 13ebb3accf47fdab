#include "models/weights.hpp"

#include <fmt/format.h>
#include <algorithm>
#include <cmath>

#include "format/adapter_merge.hpp"
#include "format/bit_packing.hpp"
#include "format/model_file.hpp"
#include "models/matrix_upload.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::models {
namespace {

using kernels::round_up;

std::string resolve(const std::string& name, int layer) {
    const std::size_t at = name.find("{}");
    if (at == std::string::npos) return name;
    return name.substr(0, at) + std::to_string(layer) + name.substr(at + 2);
}

std::uint64_t hash(std::uint64_t x) {  // SplitMix64
    x += 0x9E3779B97F4A7C15ull;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
    return x ^ (x >> 31);
}

/// Pseudo-random values in +-sqrt(3/k), whose products keep the size of their input.
std::vector<float> synthetic(const std::string& name, std::size_t count, double fan_in) {
    std::vector<float> values(count);
    std::uint64_t state = std::hash<std::string>{}(name);
    const double range = std::sqrt(3.0 / fan_in);
    for (float& value : values) {
        state = hash(state);
        value = static_cast<float>((static_cast<double>(state >> 11) * 0x1p-52 - 1.0) * range);
    }
    return values;
}

/// `groups` vectors next to each other, each padded with zeros to a multiple of 4.
std::vector<float> pad_groups(const std::vector<float>& values, int groups) {
    const int length = static_cast<int>(values.size()) / groups;
    const int padded = round_up(length, 4);
    std::vector<float> out(static_cast<std::size_t>(padded) * static_cast<std::size_t>(groups),
                           0.0f);
    for (int g = 0; g < groups; ++g) {
        std::copy_n(values.begin() + static_cast<std::ptrdiff_t>(g) * length, length,
                    out.begin() + static_cast<std::ptrdiff_t>(g) * padded);
    }
    return out;
}

void write_floats(program::Executor& executor, Tensor tensor, const std::vector<float>& values) {
    executor.write(tensor, std::as_bytes(std::span<const float>(values)));
}

std::int64_t product(const std::vector<std::int64_t>& shape) {
    std::int64_t count = 1;
    for (const std::int64_t extent : shape) count *= extent;
    return count;
}

/// The checkpoint's tensor, whose number of elements is the shape's.
const format::TensorView& stored(const WeightSource& source, const std::string& name,
                                 const std::vector<std::int64_t>& shape) {
    const std::string resolved = resolve(name, source.layer);
    const format::TensorView& tensor = source.checkpoint->at(resolved);
    if (tensor.element_count() != product(shape)) {
        throw Error(ErrorCode::bad_file, fmt::format("{}: tensor {} has {} values, {} are needed",
                                                     source.checkpoint->path().string(), resolved,
                                                     tensor.element_count(), product(shape)));
    }
    return tensor;
}

}  // namespace

std::vector<float> load_values(const WeightSource& source, const std::string& name,
                               const std::vector<std::int64_t>& shape) {
    if (source.checkpoint) return format::to_float(stored(source, name, shape));
    const std::int64_t count = product(shape);
    const double fan_in = shape.size() > 1 ? static_cast<double>(count / shape[0]) : 3.0;
    return synthetic(resolve(name, source.layer), static_cast<std::size_t>(count), fan_in);
}

InputTransforms input_transforms_of(const format::Component& transformer) {
    InputTransforms transforms;
    if (!transformer.checkpoint || transformer.network.blocks.empty()) return transforms;
    const format::NetworkBlock& block = transformer.network.blocks.front();
    for (const format::LinearGroup& group : block.groups) {
        const std::string head = block.prefix + group.linears.front().name;
        const auto has = [&](const char* part) {
            return transformer.checkpoint->find(head + part) != nullptr;
        };
        transforms.scaled = transforms.scaled || has(".channel_scale");
        transforms.rotated = transforms.rotated || has(".rotation_signs");
        transforms.clipped = transforms.clipped || has(".activation_clip");
        if (has(".rotation")) {
            transforms.learned_rotations[group.width] =
                static_cast<int>(transformer.checkpoint->at(head + ".rotation").shape.back());
        }
    }
    return transforms;
}

LoraRanks lora_ranks_of(const format::Component& transformer) {
    LoraRanks ranks;
    if (!transformer.checkpoint) return ranks;
    for (const format::NetworkBlock& block : transformer.network.blocks) {
        for (const format::LinearSpec& linear : linears_of(block)) {
            const auto* down = transformer.checkpoint->find(linear.name + format::kLoraDown);
            if (down) ranks[linear.name] = static_cast<int>(down->shape.front());
        }
    }
    return ranks;
}

kernels::FloatWeight WeightSet::linear(const std::string& name, int n, int k, bool bias,
                                       int row_groups) {
    return float_linear(name, n, k, bias, row_groups, half_);
}

kernels::FloatWeight WeightSet::full_linear(const std::string& name, int n, int k) {
    return float_linear(name, n, k, true, 1, false);
}

kernels::FloatWeight WeightSet::float_linear(const std::string& name, int n, int k, bool bias,
                                             int row_groups, bool half) {
    const int length = n / row_groups;
    const int padded = row_groups == 1 ? n : round_up(length, 4);
    kernels::FloatWeight weight =
        kernels::add_float_weight(program_, name, padded * row_groups, k, half, bias);
    uploads_.push_back([=](program::Executor& executor, const WeightSource& source) {
        if (source.checkpoint) {
            const auto& tensor = stored(source, name + ".weight", {n, k});
            write_matrix(executor, weight, rows_of(tensor, n, k), row_groups);
        } else {
            const auto values = load_values(source, name + ".weight", {n, k});
            write_matrix(executor, weight, rows_of(std::span(values), n, k), row_groups);
        }
        if (bias) {
            write_floats(executor, weight.bias,
                         pad_groups(load_values(source, name + ".bias", {n}), row_groups));
        }
    });
    return weight;
}

kernels::QuantizedWeight WeightSet::quantized(const std::string& name, int n, int k, int bits,
                                              bool bias) {
    kernels::QuantizedWeight weight =
        kernels::add_quantized_weight(program_, name, n, k, bits, bias);
    uploads_.push_back([=](program::Executor& executor, const WeightSource& source) {
        const std::size_t words = format::packed_word_count(n, k, bits);
        if (source.checkpoint) {
            const format::TensorView& codes =
                source.checkpoint->at(resolve(name, source.layer) + ".codes");
            if (codes.dtype != format::DType::u32 || codes.byte_count() != words * 4) {
                throw Error(ErrorCode::bad_file,
                            fmt::format("{}: {}.codes must be {} U32 words",
                                        source.checkpoint->path().string(), name, words));
            }
            if (codes.computed) {
                std::vector<std::byte> made(codes.byte_count());
                read_bytes(codes, made);
                executor.write(weight.words, made);
            } else {
                executor.write(weight.words, codes.bytes);
            }
            write_floats(executor, weight.scale,
                         pad_groups(load_values(source, name + ".scale", {n}), 1));
        } else {
            std::vector<std::uint32_t> random(words);
            std::uint64_t state = std::hash<std::string>{}(name);
            for (auto& word : random) word = static_cast<std::uint32_t>(state = hash(state));
            executor.write(weight.words, std::as_bytes(std::span<const std::uint32_t>(random)));
            const float scale = static_cast<float>(std::sqrt(3.0 / k) / (1 << (bits - 1)));
            write_floats(executor, weight.scale,
                         std::vector<float>(static_cast<std::size_t>(round_up(n, 4)), scale));
        }
        if (bias) {
            write_floats(executor, weight.bias,
                         pad_groups(load_values(source, name + ".bias", {n}), 1));
        }
    });
    return weight;
}

kernels::FloatWeight WeightSet::lora_down(const std::vector<std::pair<std::string, int>>& ranks,
                                          int k) {
    int rows = 0;
    for (const auto& [name, rank] : ranks) rows += round_up(rank, 4);
    const kernels::FloatWeight weight = kernels::add_float_weight(
        program_, ranks.front().first + format::kLoraDown, rows, k, half_, false);
    uploads_.push_back([=](program::Executor& executor, const WeightSource& source) {
        std::vector<float> stacked;
        for (const auto& [name, rank] : ranks) {
            if (!rank) continue;
            auto values = load_values(source, name + format::kLoraDown, {rank, k});
            values.resize(static_cast<std::size_t>(round_up(rank, 4)) * static_cast<std::size_t>(k),
                          0.0f);
            stacked.insert(stacked.end(), values.begin(), values.end());
        }
        write_matrix(executor, weight, rows_of(std::span(std::as_const(stacked)), rows, k));
    });
    return weight;
}

kernels::FloatWeight WeightSet::lora_up(const std::string& name, int n, int rank, int first,
                                        int columns) {
    // Of kernels that read it themselves it must be in fp32; on matrix units it is like any weight.
    const bool half = half_ && kernels::spread_up(program_.limits());
    const kernels::FloatWeight weight =
        kernels::add_float_weight(program_, name + format::kLoraUp, n, columns, half, false);
    uploads_.push_back([=](program::Executor& executor, const WeightSource& source) {
        const auto values = load_values(source, name + format::kLoraUp, {n, rank});
        std::vector<float> spread(static_cast<std::size_t>(n) * static_cast<std::size_t>(columns),
                                  0.0f);
        for (int row = 0; row < n; ++row) {
            std::copy_n(values.begin() + static_cast<std::ptrdiff_t>(row) * rank, rank,
                        spread.begin() + static_cast<std::ptrdiff_t>(row) * columns + first);
        }
        write_matrix(executor, weight, rows_of(std::span(std::as_const(spread)), n, columns));
    });
    return weight;
}

kernels::InputTransform WeightSet::input_transform(const std::string& name, int k,
                                                   const InputTransforms& kinds, int hadamard) {
    kernels::InputTransform transform;
    const auto learned = kinds.learned_rotations.find(k);
    const bool rotated = hadamard == 0 ? kinds.rotated : hadamard > 0;
    const bool signs = rotated && learned == kinds.learned_rotations.end();
    if (learned != kinds.learned_rotations.end()) {
        const int b = transform.rotation_block = learned->second;
        const std::uint64_t bytes =
            static_cast<std::uint64_t>(k) * static_cast<std::uint64_t>(b) * 2;
        transform.rotation = program_.add(name + ".rotation", bytes, program::Lifetime::constant);
        uploads_.push_back([=](program::Executor& executor, const WeightSource& source) {
            const auto values = load_values(source, name + ".rotation", {k / b, b, b});
            std::vector<std::uint16_t> halves(values.size());
            std::transform(values.begin(), values.end(), halves.begin(), format::half_from_float);
            executor.write(transform.rotation, std::as_bytes(std::span(halves)));
        });
    } else if (signs) {
        transform.rotation_block = hadamard > 0 ? hadamard : format::hadamard_block(k);
    }
    if (kinds.clipped) {
        transform.clip = program_.add(name + ".activation_clip", 4, program::Lifetime::constant);
        uploads_.push_back([=](program::Executor& executor, const WeightSource& source) {
            write_floats(executor, transform.clip,
                         load_values(source, name + ".activation_clip", {1}));
        });
    }
    if (signs || kinds.scaled) {
        transform.multiplier =
            program_.add(name + ".input_multiplier", static_cast<std::uint64_t>(k) * 4,
                         program::Lifetime::constant);
        uploads_.push_back(
            [=, scaled = kinds.scaled](program::Executor& executor, const WeightSource& source) {
                std::vector<float> multiplier(static_cast<std::size_t>(k), 1.0f);
                if (source.checkpoint && scaled) {
                    const auto scale = load_values(source, name + ".channel_scale", {k});
                    for (std::size_t i = 0; i < multiplier.size(); ++i) multiplier[i] /= scale[i];
                }
                if (source.checkpoint && signs) {
                    const auto values = load_values(source, name + ".rotation_signs", {k});
                    for (std::size_t i = 0; i < multiplier.size(); ++i) multiplier[i] *= values[i];
                }
                write_floats(executor, transform.multiplier, multiplier);
            });
    }
    return transform;
}

Tensor WeightSet::vector(const std::string& name, int count, int groups) {
    return computed(name, round_up(count / groups, 4) * groups, [=](const WeightSource& source) {
        return pad_groups(load_values(source, name, {count}), groups);
    });
}

Tensor WeightSet::concatenated(const std::vector<std::string>& names, int count, int groups) {
    const int padded = round_up(count / groups, 4) * groups;
    return computed(names.front() + " …", padded * static_cast<int>(names.size()),
                    [=](const WeightSource& source) {
                        std::vector<float> all;
                        for (const std::string& name : names) {
                            const auto part =
                                pad_groups(load_values(source, name, {count}), groups);
                            all.insert(all.end(), part.begin(), part.end());
                        }
                        return all;
                    });
}

kernels::ConvWeight WeightSet::convolution(const std::string& name, int out_channels,
                                           int in_channels, int kernel_t, int kernel_y,
                                           int kernel_x) {
    kernels::ConvWeight weight = kernels::add_conv_weight(program_, name, out_channels, in_channels,
                                                          kernel_t, kernel_y, kernel_x);
    uploads_.push_back([=](program::Executor& executor, const WeightSource& source) {
        const int taps = kernel_t * kernel_y * kernel_x;
        const auto values =
            load_values(source, name + ".weight", {out_channels, in_channels, taps});
        const std::size_t padded = static_cast<std::size_t>(round_up(out_channels, 8));
        std::vector<float> out(static_cast<std::size_t>(taps * in_channels) * padded, 0.0f);
        for (int o = 0; o < out_channels; ++o) {
            for (int c = 0; c < in_channels; ++c) {
                for (int tap = 0; tap < taps; ++tap) {
                    out[static_cast<std::size_t>(tap * in_channels + c) * padded +
                        static_cast<std::size_t>(o)] =
                        values[static_cast<std::size_t>((o * in_channels + c) * taps + tap)];
                }
            }
        }
        write_floats(executor, weight.weights, out);
        std::vector<float> bias = load_values(source, name + ".bias", {out_channels});
        bias.resize(padded, 0.0f);
        write_floats(executor, weight.bias, bias);
    });
    return weight;
}

Tensor WeightSet::computed(const std::string& name, int floats,
                           std::function<std::vector<float>(const WeightSource&)> make) {
    const Tensor tensor =
        program_.add(name, static_cast<std::uint64_t>(floats) * 4, program::Lifetime::constant);
    uploads_.push_back(
        [tensor, make = std::move(make)](program::Executor& executor, const WeightSource& source) {
            write_floats(executor, tensor, make(source));
        });
    return tensor;
}

bool WeightSet::upload(program::Executor& executor, const WeightSource& source,
                       const Between& between) const {
    const int total = static_cast<int>(uploads_.size());
    for (int i = 0; i < total; ++i) {
        uploads_[static_cast<std::size_t>(i)](executor, source);
        if (between && !between(i + 1, total)) return false;
    }
    return true;
}

std::vector<Linear> BlockLinears::declare(const format::NetworkBlock& block,
                                          std::string_view group_name) {
    const auto group =
        std::find_if(block.groups.begin(), block.groups.end(),
                     [&](const format::LinearGroup& g) { return g.name == group_name; });
    if (group == block.groups.end()) {
        throw Error(ErrorCode::invalid_argument,
                    fmt::format("{}* has no group of linears '{}'", block.prefix, group_name));
    }
    const format::LinearBits bits = quantization_.of(block, *group);
    std::vector<Linear> linears;
    for (const format::LinearSpec& spec : linears_of(block, *group)) {
        Linear linear;
        linear.name = spec.name;
        linear.n = spec.out_features;
        linear.k = spec.in_features;
        if (!bits.quantized()) {
            linear.weight = weights_.linear(linear.name, linear.n, linear.k, spec.bias);
        } else {
            // Always with a bias: calibration puts the mean error there.
            linear.quantized =
                weights_.quantized(linear.name, linear.n, linear.k, bits.weights, true);
            linear.activation_bits = bits.activations;
            linear.transform =
                linears.empty()
                    ? weights_.input_transform(linear.name, linear.k, transforms_, bits.hadamard)
                    : linears.front().transform;
        }
        linears.push_back(std::move(linear));
    }
    if (bits.quantized()) declare_lora(linears);
    return linears;
}

void BlockLinears::declare_lora(std::vector<Linear>& linears) {
    std::vector<std::pair<std::string, int>> ranks;
    int columns = 0;
    for (Linear& linear : linears) {
        const auto found = lora_ranks_.find(linear.name);
        const int rank = found == lora_ranks_.end() ? 0 : found->second;
        ranks.emplace_back(linear.name, rank);
        linear.lora.first = columns;
        linear.lora.rank = round_up(rank, 4);
        columns += linear.lora.rank;
    }
    if (columns == 0) return;
    const auto down = weights_.lora_down(ranks, linears.front().k);
    const bool spread = kernels::spread_up(weights_.program().limits());
    for (std::size_t i = 0; i < linears.size(); ++i) {
        Linear& linear = linears[i];
        linear.lora_down = down;
        if (linear.lora.rank == 0) continue;
        linear.lora.up =
            weights_.lora_up(linear.name, linear.n, ranks[i].second, spread ? linear.lora.first : 0,
                             spread ? columns : linear.lora.rank);
    }
}

LinearInput prepare_input(Program& program, const Linear& linear, const Matrix& input) {
    LinearInput prepared{input, std::nullopt, std::nullopt};
    if (linear.lora_down) {
        prepared.lora = kernels::add_matrix(program, "lora", input.rows, linear.lora_down->n);
        kernels::matmul(program, linear.name + format::kLoraDown, input, *linear.lora_down,
                        *prepared.lora);
    }
    if (linear.quantized) {
        prepared.rows = kernels::quantize_rows(program, linear.name + ".quantize", input,
                                               linear.transform, linear.activation_bits);
    }
    return prepared;
}

void apply(Program& program, const std::string& name, const Linear& linear,
           const LinearInput& input, const Matrix& out, const kernels::Epilogue& epilogue) {
    if (linear.quantized && input.lora) {
        kernels::LoraProduct lora = linear.lora;
        lora.rows = *input.lora;
        kernels::matmul(program, name, *input.rows, *linear.quantized, lora, out, epilogue);
    } else if (linear.quantized) {
        kernels::matmul(program, name, *input.rows, *linear.quantized, out, epilogue);
    } else {
        kernels::matmul(program, name, input.matrix, linear.weight, out, epilogue);
    }
}

}  // namespace quantsparse::models
